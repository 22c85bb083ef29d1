"""A worker's one port: lets in one root at a time and the other workers of its session, sends the rest away."""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import resource
import selectors
import socket
import threading
import time
from collections.abc import Callable

from dllama.errors import DllamaError
from dllama.fabric import Arrivals, SocketChannel, peer_address, set_options
from dllama.node.caller import Caller
from dllama.node.greeting import GREETING_TIMEOUT_S
from dllama.node.messages import Hello, Kind, Refusal, Role, Welcome
from dllama.node.shortage import OUT_OF_ROOM

_log = logging.getLogger(__name__)

HANDOVER_S = 2.0
"""How long a root waits for the one before it: a session that has just ended is still giving back its memory."""

_MOST_CALLERS = 64
"""Connections that have not said who they are; with one more, the one that has been silent longest goes."""

_MOST_NEXT_ROOTS = 8
"""Roots that wait for the one that is served to end; with one more, that one hears at once that the node is busy."""

_FEWEST_CALLERS = 4
"""May always wait: a root and the workers of its session greet at the same time."""

_ACCEPTED_AT_ONCE = 16

_PAUSE_S = 0.2
"""Until the next try where there is no room for a connection, and nobody to send away for it."""

_CALM_S = 60.0
"""Without a lack of room for so long, the next one is said again."""

_LONGEST_WAIT_S = 60.0

_SIGNAL_S = 0.5
"""A signal that came just before the wait for a root began is seen that much later at the most."""


class Door:
    """Accepts and greets in one thread, which waits for nobody: no caller can hold it up, and none costs a thread.

    Who is let in waits in a queue: `next_root`, then `next_peer` for the rest of its session.
    """

    def __init__(
        self, listener: socket.socket, welcome: Callable[[], Welcome], on_event: Callable[[str], None]
    ) -> None:
        """Takes the listening socket over. `welcome` says what this node has at the moment; `on_event` gets a line for
        people when no more connections can be accepted."""
        listener.setblocking(False)
        self._listener = listener
        self._welcome = welcome
        self._on_event = on_event
        self._lock = threading.Lock()  # guards who is served
        self._root = ""  # address of the root that is served; "" = none
        self._session = ""
        self._roots: queue.SimpleQueue[SocketChannel] = queue.SimpleQueue()
        self._peers: queue.SimpleQueue[tuple[int, SocketChannel]] = queue.SimpleQueue()
        self.heartbeats = Arrivals()  # of the session that is served
        files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._most_callers = (
            _MOST_CALLERS if files == resource.RLIM_INFINITY else min(_MOST_CALLERS, files // 4)
        )
        self._callers: dict[Caller, None] = {}  # those who have not greeted yet, the oldest first
        self._next_roots: dict[Caller, Hello] = {}  # who wait for the one that is served to end
        self._paused_until_s: float | None = None  # while nobody is accepted
        self._lacked_room_s = -_CALM_S
        self._is_closing = False
        self._waker, self._wakes = socket.socketpair()
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._wakes, selectors.EVENT_READ, self._wake)
        self._selector.register(listener, selectors.EVENT_READ, self._accept)
        self._thread = threading.Thread(target=self._run, name="door", daemon=True)
        self._thread.start()

    def next_root(self) -> SocketChannel:
        """Waits for a root; it has been welcomed, and all others are sent away until `release`."""
        while True:
            with contextlib.suppress(queue.Empty):
                return self._roots.get(timeout=_SIGNAL_S)

    def next_peer(self, timeout_s: float) -> tuple[int, SocketChannel]:
        """The next worker of the same session, with its rank. Raises queue.Empty when none comes."""
        return self._peers.get(timeout=timeout_s)

    def release(self) -> None:
        """The session is over: closes what belonged to it and lets the next root in."""
        with self._lock:
            self._root = self._session = ""
            while not self._peers.empty():
                self._peers.get()[1].connection.close()
            while not self.heartbeats.empty():
                self.heartbeats.get()[1].close()
        self._waker.send(b"\0")

    def close(self) -> None:
        """Gives the port back."""
        self._is_closing = True
        self._waker.send(b"\0")
        self._thread.join()

    def _run(self) -> None:
        """The door's thread."""
        while not self._is_closing:
            try:
                self._hear()
                self._look(time.monotonic())
            except Exception:  # our own mistake costs one caller; without this thread the node would be deaf
                _log.exception("the door failed")
                time.sleep(_PAUSE_S)
        for caller in (*self._callers, *self._next_roots):
            caller.close()
        self._selector.close()
        for own in (self._listener, self._waker, self._wakes):
            own.close()

    def _hear(self) -> None:
        """Waits for callers and does what they ask for. A frame of its own: while the thread waits it holds nobody."""
        for key, _ in self._selector.select(self._patience_s()):
            key.data()

    def _patience_s(self) -> float:
        """How long nothing is to be done unless somebody comes or speaks."""
        deadlines = [caller.deadline_s for caller in (*self._callers, *self._next_roots)]
        if self._paused_until_s is not None:
            deadlines.append(self._paused_until_s)
        return min([_LONGEST_WAIT_S, *(max(0.0, deadline_s - time.monotonic()) for deadline_s in deadlines)])

    def _look(self, now_s: float) -> None:
        """Does what is to be done by now, whoever spoke."""
        for caller in [caller for caller in self._callers if caller.deadline_s <= now_s]:
            self._send_away(caller, "it said nothing")
        for caller, hello in list(self._next_roots.items()):
            if not self._root or caller.deadline_s <= now_s:
                del self._next_roots[caller]
                self._let_in(caller, hello)
        if self._paused_until_s is not None and self._paused_until_s <= now_s:
            self._paused_until_s = None
            self._selector.register(self._listener, selectors.EVENT_READ, self._accept)

    def _wake(self) -> None:
        self._wakes.recv(4096)

    def _accept(self) -> None:
        """As many as have come, and then those who speak get their turn."""
        for _ in range(_ACCEPTED_AT_ONCE):
            try:
                connection, address = self._listener.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in OUT_OF_ROOM:
                    self._make_room(error)
                    return
                _log.debug("a caller is gone: %s", error)  # before it was accepted
                continue
            self._thin_out(self._most_callers - 1)
            self._wait_for(Caller(connection, peer_address(address), time.monotonic() + GREETING_TIMEOUT_S))

    def _wait_for(self, caller: Caller) -> None:
        self._callers[caller] = None
        self._selector.register(caller.connection, selectors.EVENT_READ, lambda: self._read(caller))

    def _make_room(self, error: OSError) -> None:
        """Sends away half of those who are silent, for good: a session needs room as well. Where there are none, nobody
        is accepted for a while."""
        now_s = time.monotonic()
        if now_s - self._lacked_room_s >= _CALM_S:
            self._on_event(
                f"no more connections can be accepted ({os.strerror(error.errno or 0).lower()}): see who connects to "
                "this port, or raise the limit (ulimit -n); silent ones are sent away, and this node serves on"
            )
        self._lacked_room_s = now_s
        self._most_callers = max(_FEWEST_CALLERS, len(self._callers) // 2)
        if self._callers:
            self._thin_out(self._most_callers - 1)
        elif self._paused_until_s is None:
            self._paused_until_s = now_s + _PAUSE_S
            self._selector.unregister(self._listener)

    def _read(self, caller: Caller) -> None:
        if caller not in self._callers:  # sent away since the system said that it spoke
            return
        try:
            hello = caller.read()
        except DllamaError as error:
            if caller.is_node:
                self._refuse(caller, str(error))
            self._send_away(caller, str(error))
            return
        if hello is None:
            return
        del self._callers[caller]
        self._selector.unregister(caller.connection)
        if hello.role == Role.ROOT and self._root and len(self._next_roots) < _MOST_NEXT_ROOTS:
            caller.deadline_s = time.monotonic() + HANDOVER_S
            self._next_roots[caller] = hello
        else:
            self._let_in(caller, hello)

    def _refuse(self, caller: Caller, why: str) -> None:
        """The answer to a greeting that is none. A node of another version sees by its header what is the matter."""
        with contextlib.suppress(DllamaError, OSError):
            channel = SocketChannel(caller.connection, caller.name, GREETING_TIMEOUT_S)
            channel.send_frame(Kind.REFUSED, Refusal(why).encode())

    def _send_away(self, caller: Caller, why: str) -> None:
        _log.debug("sent %s away: %s", caller.name, why)
        del self._callers[caller]
        self._selector.unregister(caller.connection)
        caller.close()

    def _thin_out(self, n_left: int) -> None:
        """Sends away those who have been silent longest, until so many are left."""
        while len(self._callers) > n_left:
            self._send_away(next(iter(self._callers)), "others need the room, and it said nothing")

    def _let_in(self, caller: Caller, hello: Hello) -> None:
        """Answers; the answer leaves before anyone else may write to the connection."""
        is_in = False
        try:
            set_options(caller.connection)
            channel = SocketChannel(caller.connection, caller.name, GREETING_TIMEOUT_S)
            with self._lock:
                is_in = self._greet(channel, hello)
        except (DllamaError, OSError) as error:
            _log.debug("sent %s away: %s", caller.name, error)
        finally:
            if not is_in:
                caller.close()

    def _greet(self, channel: SocketChannel, hello: Hello) -> bool:
        """Whether it is let in; the caller has the lock."""
        if hello.role == Role.ROOT:
            if self._root:
                channel.send_frame(Kind.BUSY, Refusal(self._root).encode())
                return False
            channel.send_frame(Kind.WELCOME, self._own_welcome().encode())
            self._root, self._session = channel.name, hello.session
            self._roots.put(channel)
            return True
        if not self._session or hello.session != self._session:
            channel.send_frame(Kind.REFUSED, Refusal("it serves no such session").encode())
            return False
        if hello.role == Role.HEARTBEAT:
            self.heartbeats.put((hello.rank, channel.connection))
            return True
        channel.send_frame(Kind.WELCOME, self._own_welcome().encode())
        self._peers.put((hello.rank, channel))
        return True

    def _own_welcome(self) -> Welcome:
        """What this node has. To look takes an open file: where there is none, silent callers make room for it."""
        with contextlib.suppress(OSError):
            return self._welcome()
        self._thin_out(0)
        return self._welcome()
