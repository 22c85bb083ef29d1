"""What Ctrl-C does at which time."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from types import FrameType
from typing import NoReturn

INTERRUPTED = 130
"""The exit code after Ctrl-C, as shells count: 128 and the signal's number."""


def end_at_interrupt() -> None:
    """From now on Ctrl-C ends the program at once and without a word: nothing has begun, or all is done.

    A program that was started with Ctrl-C ignored (in the background of a script) goes on to ignore it.
    """
    _on_interrupt(_end)


@contextlib.contextmanager
def interrupts_raise() -> Iterator[None]:
    """Within it Ctrl-C raises KeyboardInterrupt; after it, it ends the program at once."""
    try:
        _on_interrupt(signal.default_int_handler)
        yield
    finally:
        _on_interrupt(_end)


@contextlib.contextmanager
def interruptible() -> Iterator[list[None]]:
    """Within it the first Ctrl-C only fills the list, so that a step under way is finished; a second one raises
    KeyboardInterrupt."""
    interrupted: list[None] = []

    def interrupt(_signal: int, _frame: FrameType | None) -> None:
        if interrupted:
            raise KeyboardInterrupt
        interrupted.append(None)

    previous = signal.getsignal(signal.SIGINT)
    _on_interrupt(interrupt)
    try:
        yield interrupted
    finally:
        signal.signal(signal.SIGINT, previous)


def _on_interrupt(handler: signal._HANDLER) -> None:
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, handler)


def _end(_signal: int, _frame: FrameType | None) -> NoReturn:
    os._exit(INTERRUPTED)
