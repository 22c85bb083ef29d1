"""Somebody who has connected to a worker and is still to say who they are: read as it comes, without waiting."""

from __future__ import annotations

import contextlib
import socket

from dllama.errors import PeerLostError
from dllama.fabric.frames import HEADER_BYTES, MAGIC, check_magic, decode_header
from dllama.node.messages import Hello, Kind

MAX_HELLO_BYTES = 4096
"""Far more than a greeting has, and little enough for many strangers at once."""


class Caller:
    """A connection up to its first message, which must be a Hello. Nothing behind that message is read."""

    def __init__(self, connection: socket.socket, name: str, deadline_s: float) -> None:
        """Takes the connection over, which becomes non-blocking. `deadline_s` is when it is sent away, by the clock of
        whoever looks at it."""
        connection.setblocking(False)
        self.connection = connection
        self.name = name
        self.deadline_s = deadline_s
        self._header = b""
        self._payload = b""
        self._n_payload = 0

    def read(self) -> Hello | None:
        """The greeting once it is complete, None before; the socket has something to read.

        Raises PeerLostError when it has ended or begins otherwise, PeerProtocolError for what is no greeting of this
        version, at the first wrong byte.
        """
        if len(self._header) < HEADER_BYTES:
            self._header += self._receive(HEADER_BYTES - len(self._header))
            check_magic(self._header, self.name)
            if len(self._header) < HEADER_BYTES:
                return None
            kind, self._n_payload = decode_header(self._header, MAX_HELLO_BYTES, self.name)
            if kind != Kind.HELLO:
                raise PeerLostError(f"{self.name} did not begin with a greeting")
        elif len(self._payload) < self._n_payload:
            self._payload += self._receive(self._n_payload - len(self._payload))
        if len(self._payload) < self._n_payload:
            return None
        return Hello.decode(self._payload, self.name)

    @property
    def is_node(self) -> bool:
        """Whether it has begun as a node of any version does, so that it understands an answer."""
        return self._header.startswith(MAGIC)

    def close(self) -> None:
        """Whatever it has sent is read: what is left unread makes a reset of the end, which may overtake an answer."""
        with contextlib.suppress(OSError):
            self.connection.setblocking(False)
            self.connection.recv(MAX_HELLO_BYTES)
        self.connection.close()

    def _receive(self, n_bytes: int) -> bytes:
        try:
            received = self.connection.recv(n_bytes)
        except BlockingIOError:
            return b""
        except OSError as error:
            raise PeerLostError(f"{self.name} went without a greeting ({error.strerror})") from error
        if not received:
            raise PeerLostError(f"{self.name} went without a greeting")
        return received
