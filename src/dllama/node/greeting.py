"""The first words on a connection, from the side that calls: a root calls its workers, workers call each other."""

from __future__ import annotations

import dataclasses
import socket
from typing import NoReturn

from dllama.errors import PeerBusyError, PeerError, PeerLostError, PeerProtocolError
from dllama.fabric import SocketChannel, connect_with_deadline, format_address
from dllama.node.messages import MAX_CONTROL_BYTES, Hello, Kind, Refusal, Role, Welcome

GREETING_TIMEOUT_S = 10.0
"""For whatever a person waits for at the start: connecting, greeting, joining."""


@dataclasses.dataclass(frozen=True)
class Address:
    host: str
    port: int

    def __str__(self) -> str:
        return format_address(self.host, self.port)

    @classmethod
    def parse(cls, text: str) -> Address:
        """The inverse of str. Raises ValueError."""
        host, _, port = text.rpartition(":")
        return cls(host.removeprefix("[").removesuffix("]"), int(port))


def call(address: Address, hello: Hello) -> tuple[SocketChannel, Welcome]:
    """Connects to a worker and introduces itself; returns the connection with the worker's answer.

    Raises PeerUnreachableError, PeerTimeoutError, PeerLostError, PeerProtocolError, or PeerBusyError naming the
    root that the worker serves.
    """
    connection = connect_with_deadline(address.host, address.port, GREETING_TIMEOUT_S)
    try:
        channel = SocketChannel(connection, str(address), GREETING_TIMEOUT_S, role=Role.WORKER)
        channel.send_frame(Kind.HELLO, hello.encode())
        kind, payload = _answer(channel)
        if kind != Kind.WELCOME:
            raise_refusal(kind, payload, str(address))
        return channel, Welcome.decode(payload, str(address))
    except BaseException:
        connection.close()
        raise


def call_heartbeat(address: Address, session: str, rank: int) -> socket.socket:
    """A second connection to a worker that has let this node in, for the beats of both: nobody waits for an answer.

    `rank` is this node's. Raises PeerUnreachableError, PeerTimeoutError, PeerLostError.
    """
    connection = connect_with_deadline(address.host, address.port, GREETING_TIMEOUT_S)
    try:
        channel = SocketChannel(connection, str(address), GREETING_TIMEOUT_S, role=Role.WORKER)
        channel.send_frame(Kind.HELLO, Hello(Role.HEARTBEAT, session, rank).encode())
    except BaseException:
        connection.close()
        raise
    return connection


def _answer(channel: SocketChannel) -> tuple[int, bytearray]:
    """Nodes of protocol version 1 closed the connection where the version was another one."""
    try:
        return channel.receive_frame(MAX_CONTROL_BYTES)
    except PeerLostError as error:
        raise PeerLostError(f"{error}; see whether it has the same release of dllama as this node") from error


def raise_refusal(kind: int, payload: bytes | bytearray, name: str) -> NoReturn:
    """Raises what `name` answered in place of what was asked for."""
    if kind == Kind.BUSY:
        root = Refusal.decode(payload, name).reason
        raise PeerBusyError(
            f"worker {name} is busy with {root}; wait until that root ends, or use other workers"
        )
    if kind in (Kind.REFUSED, Kind.FAILED):
        raise PeerError(f"worker {name}: {Refusal.decode(payload, name).reason}")
    raise PeerProtocolError(f"{name} answered with a message of kind {kind}, which nobody asked for")
