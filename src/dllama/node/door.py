"""A worker's one port: lets in one root at a time and the other workers of its session, sends the rest away."""

from __future__ import annotations

import contextlib
import logging
import queue
import socket
import threading
from collections.abc import Callable

from dllama.errors import DllamaError, PeerLostError, PeerTimeoutError
from dllama.fabric import SocketChannel, format_address, set_options
from dllama.node.greeting import GREETING_TIMEOUT_S
from dllama.node.messages import MAX_CONTROL_BYTES, Hello, Kind, Refusal, Role, Welcome

_log = logging.getLogger(__name__)

HANDOVER_S = 2.0
"""How long a root waits for the one before it: a session that has just ended is still giving back its memory."""


class Door:
    """Accepts connections in a thread of its own, greets each in another, so that nobody can hold it up.

    Who is let in waits in a queue: `next_root`, then `next_peer` for the rest of its session.
    """

    def __init__(self, listener: socket.socket, welcome: Callable[[], Welcome]) -> None:
        """Takes the listening socket over. `welcome` says what this node has at the moment."""
        self._listener = listener
        self._welcome = welcome
        self._lock = threading.Condition()  # told when the root has changed
        self._root = ""  # address of the root that is served; "" = none
        self._session = ""
        self._roots: queue.SimpleQueue[SocketChannel] = queue.SimpleQueue()
        self._peers: queue.SimpleQueue[tuple[int, SocketChannel]] = queue.SimpleQueue()
        threading.Thread(target=self._accept, name="door", daemon=True).start()

    def next_root(self) -> SocketChannel:
        """Waits for a root; it has been welcomed, and all others are sent away until `release`."""
        return self._roots.get()

    def next_peer(self, timeout_s: float) -> tuple[int, SocketChannel]:
        """The next worker of the same session, with its rank. Raises PeerTimeoutError."""
        try:
            return self._peers.get(timeout=timeout_s)
        except queue.Empty:
            raise PeerTimeoutError(
                f"another worker of this session did not connect within {timeout_s:g} s; "
                f"see whether the workers can reach each other"
            ) from None

    def release(self) -> None:
        """The session is over: closes what belonged to it and lets the next root in."""
        with self._lock:
            self._root = self._session = ""
            while not self._peers.empty():
                self._peers.get()[1].connection.close()
            self._lock.notify_all()

    def close(self) -> None:
        with contextlib.suppress(OSError):  # macOS: it is not connected
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes the thread that accepts; close alone does not
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, (host, port, *_) = self._listener.accept()
            except OSError:
                return  # closed
            name = format_address(host, port)
            threading.Thread(target=self._greet, args=(connection, name), name="greet", daemon=True).start()

    def _greet(self, connection: socket.socket, name: str) -> None:
        try:
            set_options(connection)
            channel = SocketChannel(connection, name, GREETING_TIMEOUT_S)
            kind, payload = channel.receive_frame(MAX_CONTROL_BYTES)
            if kind != Kind.HELLO:
                raise PeerLostError(f"{name} did not begin with a greeting")
            if not self._let_in(channel, Hello.decode(payload, name)):
                connection.close()
        except (DllamaError, OSError) as error:
            _log.info("sent %s away: %s", name, error)
            connection.close()

    def _let_in(self, channel: SocketChannel, hello: Hello) -> bool:
        """Answers; the answer leaves before anyone else may write to the connection."""
        with self._lock:
            if hello.role == Role.ROOT:
                if not self._lock.wait_for(lambda: not self._root, HANDOVER_S):
                    channel.send_frame(Kind.BUSY, Refusal(self._root).encode())
                    return False
                channel.send_frame(Kind.WELCOME, self._welcome().encode())
                self._root, self._session = channel.name, hello.session
                self._roots.put(channel)
                return True
            if not self._session or hello.session != self._session:
                channel.send_frame(Kind.REFUSED, Refusal("it serves no such session").encode())
                return False
            channel.send_frame(Kind.WELCOME, self._welcome().encode())
            self._peers.put((hello.rank, channel))
            return True
