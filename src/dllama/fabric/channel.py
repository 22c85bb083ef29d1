"""Connecting, listening, and messages over one socket: what two nodes need before they share a fabric."""

from __future__ import annotations

import errno
import os
import socket
import time

from dllama.errors import PeerError, PeerLostError, PeerTimeoutError, PeerUnreachableError, UsageError
from dllama.fabric.addresses import format_address
from dllama.fabric.base import Buffer, WritableBuffer, bytes_view
from dllama.fabric.frames import HEADER_BYTES, check_magic, decode_header, encode_header
from dllama.fabric.socket_options import set_options

_RETRY_S = 0.1
_BACKLOG = 64

_ONE_WRITE_BYTES = 64 * 1024
"""Header and payload leave in one packet where copying them together costs less than a packet."""


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens on `port` (0: any free one) of `host` (a name, an address, `0.0.0.0`, `::`).

    Raises UsageError when the port is in use or the host is not this machine's.
    """
    try:
        family, *_, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.create_server(address[:2], family=family, backlog=_BACKLOG)
        set_options(listener)
        return listener
    except (OSError, UnicodeError) as error:
        where = format_address(host, port)
        if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
            raise UsageError(
                f"port {port} is in use on {host}; choose another", settings=("port",)
            ) from error
        raise UsageError(
            f"cannot listen on {where} ({_reason(error)}); check the address", settings=("host", "port")
        ) from error


def listen_everywhere(port: int) -> socket.socket:
    """A socket that listens on `port` of all addresses of this computer, IPv6 and IPv4, as far as it has them.

    Raises UsageError when the port is in use.
    """
    if not socket.has_dualstack_ipv6():
        return listen("0.0.0.0", port)
    try:
        listener = socket.create_server(
            ("::", port), family=socket.AF_INET6, backlog=_BACKLOG, dualstack_ipv6=True
        )
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise UsageError(f"port {port} is in use; choose another", settings=("port",)) from error
        return listen("0.0.0.0", port)  # a system without IPv6
    set_options(listener)
    return listener


def connect_with_deadline(host: str, port: int, timeout_s: float) -> socket.socket:
    """A connection to `host`, with the options of a fabric's.

    Tries again until `timeout_s` is over, so that a node that is only just starting is met. Looking up a name
    may take longer than that. Raises PeerUnreachableError naming the address and the seconds waited.
    """
    where = format_address(host, port)
    started = time.monotonic()
    try:
        targets = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise PeerUnreachableError(
            f"no address for {where} ({_reason(error)}); check how it is spelt"
        ) from error
    while True:
        reason = "it has no address"
        for n_tried, (family, kind, protocol, _, address) in enumerate(targets):
            remaining_s = started + timeout_s - time.monotonic()
            connection = socket.socket(family, kind, protocol)
            # A silent address must not use up the time of those after it.
            connection.settimeout(max(remaining_s / (len(targets) - n_tried), 1e-3))
            try:
                set_options(connection)
                connection.connect(address)
                _refuse_self(connection)
            except OSError as error:
                connection.close()
                reason = _reason(error)
            else:
                return connection
        waited_s = time.monotonic() - started
        if waited_s + _RETRY_S > timeout_s:
            raise PeerUnreachableError(
                f"nothing answered at {where} for {waited_s:.1f} s ({reason}); "
                f"see whether a worker listens on port {port} there and no firewall is between",
                settings=("worker",),
            )
        time.sleep(_RETRY_S)


class SocketChannel:
    """Bytes and messages over one connected socket, all of them before one deadline.

    Every method raises PeerTimeoutError when the deadline passes and PeerLostError when the connection ends;
    a message may then have been sent or received in part, and the socket is good for closing only.
    """

    def __init__(
        self, connection: socket.socket, name: str, timeout_s: float | None, *, role: str = "node"
    ) -> None:
        """`name` is the peer's address in errors, `role` what it should be ("worker"). The deadline is
        `timeout_s` from now; None is none. The socket stays the caller's, who closes it or hands it on."""
        self.connection = connection
        self.name = name
        self._role = role
        self.set_deadline(timeout_s)

    def set_deadline(self, timeout_s: float | None) -> None:
        """Moves the deadline to `timeout_s` from now; None is none."""
        self._timeout_s = timeout_s
        self._deadline = None if timeout_s is None else time.monotonic() + timeout_s

    def send_frame(self, kind: int, *payload: Buffer) -> None:
        """Sends one message; its payload is the `payload` buffers one after the other."""
        views = [bytes_view(buffer) for buffer in payload]
        n_bytes = sum(map(len, views))
        header = encode_header(kind, n_bytes)
        if n_bytes <= _ONE_WRITE_BYTES:
            self.write_all(b"".join((header, *views)))
        else:
            self.write_all(header, *views)

    def receive_frame(self, max_bytes: int) -> tuple[int, bytearray]:
        """Returns (kind, payload) of the next message.

        Raises PeerProtocolError, at the first byte that cannot be ours, when the peer speaks something else
        or another version, or announces more than `max_bytes`.
        """
        header = bytearray(HEADER_BYTES)
        n_read = 0
        while n_read < HEADER_BYTES:
            n_read += self._read_some(memoryview(header)[n_read:])
            check_magic(bytes(header[:n_read]), self.name, self._role)
        kind, n_bytes = decode_header(bytes(header), max_bytes, self.name, self._role)
        return kind, self.read_exact(n_bytes)

    def read_exact(self, n_bytes: int) -> bytearray:
        """Returns the next `n_bytes` bytes."""
        buffer = bytearray(n_bytes)
        self.read_into(buffer)
        return buffer

    def read_into(self, buffer: WritableBuffer) -> None:
        """Fills `buffer`."""
        view = bytes_view(buffer)
        while view:
            view = view[self._read_some(view) :]

    def write_all(self, *buffers: Buffer) -> None:
        """Sends `buffers` one after the other."""
        for buffer in buffers:
            try:
                self.connection.settimeout(self._remaining_s())
                self.connection.sendall(bytes_view(buffer))
            except OSError as error:
                raise self._failure(error, "it did not read what was sent") from error

    def _read_some(self, view: memoryview) -> int:
        """Reads 1 byte or more into `view`; returns how many."""
        try:
            self.connection.settimeout(self._remaining_s())
            n_bytes = self.connection.recv_into(view)
        except OSError as error:
            raise self._failure(error, f"{len(view)} bytes from it are missing") from error
        if n_bytes == 0:
            raise PeerLostError(f"{self.name} closed the connection; {len(view)} bytes from it are missing")
        return n_bytes

    def _remaining_s(self) -> float | None:
        """Raises TimeoutError, as sockets do, when nothing remains."""
        if self._deadline is None:
            return None
        remaining_s = self._deadline - time.monotonic()
        if remaining_s <= 0:
            raise TimeoutError
        return remaining_s

    def _failure(self, error: OSError, missing: str) -> PeerError:
        # A TimeoutError with a number comes from the system, which has given the connection up.
        if isinstance(error, TimeoutError) and error.errno is None:
            return PeerTimeoutError(
                f"{self.name} did not answer within {self._timeout_s:g} s; {missing}; see whether a "
                f"dllama {self._role} runs there"
            )
        return PeerLostError(f"lost {self.name} ({_reason(error)}); {missing}")


def _refuse_self(connection: socket.socket) -> None:
    """Raises ConnectionRefusedError when the socket met itself. On a free local port it can: the system may
    choose the port that is called for the calling end too, and TCP lets both open at the same time."""
    if connection.getsockname() == connection.getpeername():
        raise ConnectionRefusedError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED))


def _reason(error: OSError | UnicodeError) -> str:
    """What the system says about it, without its number."""
    text = error.strerror if isinstance(error, OSError) else None
    return (text or str(error)).lower()
