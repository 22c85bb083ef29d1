"""What Ctrl-C, and being told to end, do at which time."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from types import FrameType

_Handler = Callable[[int, FrameType | None], object]

INTERRUPTED = 130
"""The exit code after Ctrl-C, as shells count: 128 and the signal's number."""


class Ending:
    """Whether this program was told to end: by SIGTERM, or by SIGHUP as its terminal was closed.

    SystemExit is raised wherever Python just is. Some places swallow what is raised there (a finalizer, a callback),
    and others do not survive it (an event loop): what goes on and on calls `check`, and the latter are `held_back`.
    """

    def __init__(self) -> None:
        self._number: int | None = None
        self._wake: Callable[[], object] | None = None

    def listen(self) -> None:
        """From now on; in the main thread. A program that was started with SIGHUP ignored (nohup) goes on to."""
        signal.signal(signal.SIGTERM, self.tell)
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
            signal.signal(signal.SIGHUP, self.tell)

    def tell(self, number: int, _frame: FrameType | None = None) -> None:
        """The signal has come. Raises SystemExit with the exit code that shells give it, unless it is held back."""
        self._number = number
        if self._wake is None:
            self.check()
        else:
            self._wake()

    def check(self) -> None:
        """Raises SystemExit where the signal has come, now or before."""
        if self._number is not None:
            raise SystemExit(128 + self._number)

    @contextlib.contextmanager
    def held_back(self, wake: Callable[[], object]) -> Iterator[None]:
        """Within it nothing is raised: `wake` is called as the signal comes, in place of whatever runs, and has to see
        to it that the body ends. SystemExit is raised before and after it."""
        self.check()
        self._wake = wake
        try:
            yield
        finally:
            self._wake = None
            self.check()


def end_at_interrupt() -> None:
    """From now on Ctrl-C ends the program at once and without a word: nothing has begun, or all is done.

    A program that was started with Ctrl-C ignored (in the background of a script) goes on to ignore it.
    """
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, _end)


@contextlib.contextmanager
def interrupts_raise() -> Iterator[None]:
    """Within it Ctrl-C raises KeyboardInterrupt; after it, it does what it did before."""
    with _handled_by(signal.default_int_handler):
        yield


@contextlib.contextmanager
def interruptible() -> Iterator[list[None]]:
    """Within it the first Ctrl-C only fills the list, so that a step under way is finished; a second one raises
    KeyboardInterrupt."""
    interrupted: list[None] = []

    def interrupt(_signal: int, _frame: FrameType | None) -> None:
        if interrupted:
            raise KeyboardInterrupt
        interrupted.append(None)

    with _handled_by(interrupt):
        yield interrupted


@contextlib.contextmanager
def _handled_by(handler: _Handler) -> Iterator[None]:
    before = signal.getsignal(signal.SIGINT)
    if before is signal.SIG_IGN:
        yield
        return
    signal.signal(signal.SIGINT, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _end(_signal: int, _frame: FrameType | None) -> None:
    os._exit(INTERRUPTED)
