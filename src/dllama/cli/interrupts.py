"""What Ctrl-C does at which time."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from types import FrameType

_Handler = Callable[[int, FrameType | None], object]

INTERRUPTED = 130
"""The exit code after Ctrl-C, as shells count: 128 and the signal's number."""


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
