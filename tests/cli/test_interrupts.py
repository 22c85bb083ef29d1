"""A program that is told to end does, wherever it is told so."""

from __future__ import annotations

import contextlib
import os
import pty
import signal
import sys
import termios
from collections.abc import Iterator
from types import FrameType
from typing import Any

import pytest

from dllama.cli.interrupts import Ending
from dllama.cli.main import parse_arguments
from dllama.cli.options import model_options
from dllama.cli.reopening import ReopenedSession
from dllama.cli.terminal_line import TerminalLine
from dllama.errors import PeerLostError

N_PLACES = 24
TIMEOUT_S = 20.0


class StuckError(BaseException):
    """Nothing in a library catches it."""


@pytest.fixture
def ending() -> Iterator[Ending]:
    """One that listens, for the time of a test."""

    def stuck(_number: int, _frame: FrameType | None) -> None:
        raise StuckError

    numbers = (signal.SIGTERM, signal.SIGHUP, signal.SIGALRM)
    before = [signal.signal(number, signal.SIG_DFL) for number in numbers]  # under nohup SIGHUP is ignored
    ending = Ending()
    ending.listen()
    signal.signal(signal.SIGALRM, stuck)
    try:
        yield ending
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


class Line:
    """Reads a line that has been typed already, with SIGHUP sent as Python gets to some place of it."""

    def __init__(self, ending: Ending, n_before: int) -> None:
        self.n_places = 0
        self._n_before, self._ending = n_before, ending

    def read(self) -> str:
        """Raises StuckError where it does not come to an end. The terminal is as it was."""
        keyboard, terminal = pty.openpty()
        with open(terminal) as typed, open(os.dup(terminal), "w") as screen:
            line = TerminalLine(typed, screen, [], lambda _line: None, self._ending)
            os.write(keyboard, b"hello\r")
            modes = termios.tcgetattr(typed)
            tracer = sys.gettrace()
            signal.setitimer(signal.ITIMER_REAL, TIMEOUT_S)
            try:
                sys.settrace(self._place)
                return line.read("> ")
            finally:
                sys.settrace(tracer)
                signal.setitimer(signal.ITIMER_REAL, 0)
                assert termios.tcgetattr(typed) == modes
                os.close(keyboard)

    def _place(self, _frame: FrameType, _event: str, _value: Any) -> None:
        """A function is called."""
        if self.n_places == self._n_before:
            signal.raise_signal(signal.SIGHUP)
        self.n_places += 1


@pytest.mark.parametrize("term", ["xterm", "dumb"])
def test_a_chat_at_its_prompt_ends_wherever_it_is_told_so(
    term: str, ending: Ending, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Raised in the library's event loop, the end was lost at some places, and at others nothing moved any more."""
    monkeypatch.setenv("TERM", term)
    n_places = []
    for _ in range(
        4
    ):  # the first time more is made; where the computer is busy, some places are passed more often
        whole = Line(ending, -1)
        assert whole.read() == "hello"
        n_places.append(whole.n_places)
    for number in range(N_PLACES):
        told = Ending()
        told.listen()
        with pytest.raises(SystemExit) as end:
            Line(told, int(0.9 * min(n_places)) * number // N_PLACES).read()
        assert end.value.code == 129
        with pytest.raises(SystemExit):
            told.check()


def test_an_end_that_was_swallowed_is_seen_later(ending: Ending) -> None:
    ending.check()
    with contextlib.suppress(SystemExit):
        signal.raise_signal(signal.SIGTERM)
    with pytest.raises(SystemExit, match="143"):
        ending.check()
    with pytest.raises(SystemExit, match="143"), ending.held_back(lambda: None):
        raise AssertionError("it does not begin")


def test_who_waits_for_a_worker_sees_it(ending: Ending) -> None:
    args = parse_arguments(["chat", "--nthreads", "1", "--workers", "127.0.0.1:1"])
    args.job = None
    model = ReopenedSession(model_options(args), None, None, ending)
    model.lose(PeerLostError("lost worker 127.0.0.1:1"))
    with contextlib.suppress(SystemExit):
        signal.raise_signal(signal.SIGTERM)
    with pytest.raises(SystemExit, match="143"):
        model.reopen()
