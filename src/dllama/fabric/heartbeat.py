"""A byte each second tells the other nodes of a session that this process runs, whatever it computes or waits for.

The connection that carries the session cannot tell: between steps nothing travels, and a process that is stopped, or
a computer whose cable is pulled, looks from afar like one that computes. So each pair of nodes has a second connection
for this alone, served by a thread of its own; native code gives Python's lock away while it computes.

    "."   sent each INTERVAL_S
    "!"   sent once, before the connection is closed in order: what ends without it was killed
"""

from __future__ import annotations

import contextlib
import os
import queue
import selectors
import socket
import threading
import time
from collections.abc import Iterable
from functools import partial

from dllama.fabric.base import Loss

INTERVAL_S = 1.0

PEER_TIMEOUT_S = 10.0
"""A node that has not been heard of for so long counts as lost, unless a person decides otherwise."""

LEAST_PEER_TIMEOUT_S = 2 * INTERVAL_S

_NOTICE_S = 0.5
"""That much earlier than the time it may take, so that whoever looks every now and then notices within it."""

_SETTLE_S = 0.1
"""Far more than the ends of two connections are apart that have the same cause."""

_BEAT, _GOODBYE = b".", b"!"
_READ_BYTES = 4096
_MOST_LAST_READS = 64  # hours of beats; who sends without end holds nobody up

Arrivals = queue.SimpleQueue[tuple[int, socket.socket]]
"""Connections for the heartbeat, with the rank at the other end."""


class Heartbeat:
    """Beats on the connections of one session, and notices which of its ranks are no longer there.

    Its thread begins at once and ends with `close`. Nobody is lost before `watch` says who belongs to the session.
    """

    def __init__(self, arrivals: Arrivals | None = None, *, interval_s: float = INTERVAL_S) -> None:
        """Connections put into `arrivals` are taken over within a second."""
        self._arrivals = arrivals if arrivals is not None else Arrivals()
        self._interval_s = interval_s
        self._links: dict[int, socket.socket] = {}
        self._heard_s: dict[int, float] = {}  # when each rank was, by the monotonic clock
        self._limits_s: dict[int, float] = {}  # of silence, for each rank that is watched
        self._ended: dict[int, Loss] = {}  # those without a goodbye, or silent
        self._left: dict[int, Loss] = {}  # those who said goodbye
        self._is_closing = False
        self._waker, self._wakes = socket.socketpair()
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._wakes, selectors.EVENT_READ, partial(self._wakes.recv, _READ_BYTES))
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)
        try:
            self._thread.start()
        except RuntimeError:  # no more threads
            self._close_all()
            raise

    def add(self, rank: int, connection: socket.socket) -> None:
        """Takes over a connection whose other end is that rank's heartbeat."""
        self._arrivals.put((rank, connection))
        self._wake()

    def watch(self, timeouts_s: dict[int, float]) -> None:
        """From now on each of these ranks is lost when it has not been heard of for that time. Call it once."""
        now_s = time.monotonic()
        for rank in timeouts_s:
            self._heard_s.setdefault(rank, now_s)
        self._limits_s = {rank: timeout_s - _NOTICE_S for rank, timeout_s in timeouts_s.items()}
        self._wake()

    @property
    def losses(self) -> dict[int, Loss]:
        """Who is lost. Those who left in order count only where nobody else is lost: they left because of it."""
        ended, left = (
            {rank: of[rank] for rank in self._limits_s if rank in of} for of in (self._ended, self._left)
        )
        return ended or left

    def settled_losses(self) -> dict[int, Loss]:
        """`losses`, once the end of one connection has been seen: who was lost first is known a moment later."""
        deadline_s = time.monotonic() + _SETTLE_S
        while not self._ended and time.monotonic() < deadline_s:
            time.sleep(_SETTLE_S / 10)  # only where a session has failed already
        return self.losses

    def close(self) -> None:
        """Says goodbye to all and ends the thread. May be called again."""
        if not self._is_closing:
            self._is_closing = True
            self._wake()
        self._thread.join()

    def _wake(self) -> None:
        with contextlib.suppress(OSError):  # closed already, or full of wakes
            self._waker.send(b"\0")

    def _run(self) -> None:
        """The thread."""
        beat_s = time.monotonic()
        while not self._is_closing:
            now_s = time.monotonic()
            self._take_arrivals()
            if now_s >= beat_s:
                for rank in list(self._links):
                    self._send(rank, _BEAT)
                beat_s = now_s + self._interval_s
            self._listen(0.0)  # what came by `now_s` is heard before anyone is judged by it
            self._judge(now_s)
            patience_s = max(0.0, min([beat_s, *self._expiries_s()]) - time.monotonic())
            self._listen(0.0 if self._is_closing else patience_s)  # the wake of `close` may be heard already
        self._take_arrivals()  # they are owed a goodbye too
        for rank, connection in self._links.items():
            self._send(rank, _GOODBYE)
            # What is unread makes a reset of the end, which may overtake a goodbye.
            with contextlib.suppress(OSError):
                for _ in range(_MOST_LAST_READS):
                    if not connection.recv(_READ_BYTES):
                        break
        self._close_all()

    def _take_arrivals(self) -> None:
        with contextlib.suppress(queue.Empty):
            while True:
                rank, connection = self._arrivals.get_nowait()
                if rank in self._links:
                    connection.close()
                    continue
                connection.setblocking(False)
                self._links[rank] = connection
                self._heard_s[rank] = time.monotonic()
                self._selector.register(connection, selectors.EVENT_READ, partial(self._read, rank))
                self._send(rank, _BEAT)

    def _listen(self, patience_s: float) -> None:
        for key, _ in self._selector.select(patience_s):
            key.data()

    def _expiries_s(self) -> Iterable[float]:
        return [
            self._heard_s[rank] + limit_s
            for rank, limit_s in self._limits_s.items()
            if rank not in self._ended and rank not in self._left
        ]

    def _judge(self, now_s: float) -> None:
        for rank, limit_s in list(self._limits_s.items()):
            silent_s = now_s - self._heard_s[rank]
            if silent_s >= limit_s and rank not in self._ended and rank not in self._left:
                self._lose(rank, f"no sign of life for {silent_s:.0f} s", silent_s)

    def _send(self, rank: int, what: bytes) -> None:
        """Where that fails, silence or what is read tells why."""
        with contextlib.suppress(OSError):
            self._links[rank].send(what)

    def _read(self, rank: int) -> None:
        connection = self._links.get(rank)
        if connection is None:
            return
        try:
            received = connection.recv(_READ_BYTES)
        except BlockingIOError:
            return
        except OSError as error:
            self._lose(rank, os.strerror(error.errno or 0).lower())
            return
        if _GOODBYE in received:
            self._forget(rank)
            self._left[rank] = Loss(time.time(), "it ended the session")
        elif received:
            self._heard_s[rank] = time.monotonic()
        else:
            self._lose(rank, "it closed the connection")

    def _lose(self, rank: int, reason: str, silent_s: float = 0.0) -> None:
        self._forget(rank)
        self._ended[rank] = Loss(time.time() - silent_s, reason)

    def _forget(self, rank: int) -> None:
        connection = self._links.pop(rank, None)
        if connection is not None:
            self._selector.unregister(connection)
            connection.close()

    def _close_all(self) -> None:
        for connection in self._links.values():
            connection.close()
        with contextlib.suppress(queue.Empty):
            while True:
                self._arrivals.get_nowait()[1].close()
        self._selector.close()
        self._waker.close()
        self._wakes.close()
