"""Who carries transfers over the fabric: computing itself, or a thread while computing goes on."""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import TypeAlias

from dllama.model.trace import SpanName, Trace, Track

Transfer: TypeAlias = Callable[[float], None]
"""What all ranks do at the same time with the fabric, given a timeout in seconds."""

_Post: TypeAlias = tuple[Transfer, SpanName]


class Courier:
    """All transfers of a session, each traced under its name. They begin in the order in which they are asked for.

    Whoever made it closes it, when nothing can hold up a transfer any more: after the fabric.

    The thread and two SimpleQueues take 14 us of computing for a transfer; a ThreadPoolExecutor and its future took 60.
    """

    def __init__(self, timeout_s: float, trace: Trace) -> None:
        self.wait_s = 0.0  # that computing has stood still for transfers so far
        self._timeout_s = timeout_s
        self._trace = trace
        self._posted: SimpleQueue[_Post | None] = SimpleQueue()
        self._ended: SimpleQueue[BaseException | None] = SimpleQueue()
        self._thread: threading.Thread | None = None

    def carry(self, transfer: Transfer, name: SpanName) -> None:
        """Does it now. Raises what it raises."""
        clock = self._trace.clock
        start_s = clock()
        transfer(self._timeout_s)
        self.wait_s += clock() - start_s
        self._trace.add(name, start_s)

    def post(self, transfer: Transfer, name: SpanName) -> None:
        """Has it done while the caller goes on; `wait` follows once for each post."""
        if self._thread is None:
            self._thread = threading.Thread(
                target=_serve,
                args=(self._posted, self._ended, self._timeout_s, self._trace),
                name="courier",
                daemon=True,
            )
            self._thread.start()
        self._posted.put((transfer, name))

    def wait(self) -> None:
        """Until the oldest post that nobody has waited for has ended. Raises what it raised."""
        clock = self._trace.clock
        start_s = clock()
        error = self._ended.get()
        self.wait_s += clock() - start_s
        if error is None:
            return
        try:
            raise error
        finally:
            del error  # it has this frame now, which would keep it

    def close(self) -> None:
        """Ends the thread, after the transfers that are asked for; what nobody has waited for is forgotten, errors
        too."""
        if self._thread is not None:
            self._posted.put(None)
            self._thread.join()
            self._thread = None
        while not self._ended.empty():
            self._ended.get()


def _serve(
    posted: SimpleQueue[_Post | None],
    ended: SimpleQueue[BaseException | None],
    timeout_s: float,
    trace: Trace,
) -> None:
    """The thread. It keeps nothing of a transfer while it waits for the next."""
    while (post := posted.get()) is not None:
        ended.put(_error_of(*post, timeout_s, trace))
        del post


def _error_of(transfer: Transfer, name: SpanName, timeout_s: float, trace: Trace) -> BaseException | None:
    """Carries out the transfer; returns its error, for `wait` to raise, or None."""
    start_s = trace.clock()
    try:
        transfer(timeout_s)
    except BaseException as error:
        return error
    trace.add(name, start_s, track=Track.COURIER)
    return None
