"""The line in which a person types, with its keys, its history and pasting.

Nothing imports this but a chat in a terminal: the library takes a third of a second.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import termios
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TextIO

from prompt_toolkit import PromptSession
from prompt_toolkit.application import create_app_session
from prompt_toolkit.data_structures import Size
from prompt_toolkit.history import InMemoryHistory
from prompt_toolkit.input import create_input
from prompt_toolkit.key_binding import KeyBindings
from prompt_toolkit.key_binding.key_processor import KeyPressEvent
from prompt_toolkit.output import ColorDepth, Output
from prompt_toolkit.output.plain_text import PlainTextOutput
from prompt_toolkit.output.vt100 import Vt100_Output
from prompt_toolkit.utils import is_dumb_terminal

from dllama.cli.chat_input import ClearedError
from dllama.cli.interrupts import Ending

_USUAL_SIZE = Size(rows=24, columns=80)


class TerminalLine:
    """A LineSource. Several lines that are pasted are one entry, and so are those that Alt-Enter puts in."""

    is_person = True

    def __init__(
        self,
        keyboard: TextIO,
        screen: TextIO,
        history: Sequence[str],
        on_line: Callable[[str], None],
        ending: Ending,
    ) -> None:
        """`history`: earlier lines, the oldest first; `on_line` gets each new one; `ending` ends a `read`."""
        self._keyboard, self._on_line, self._ending = keyboard, on_line, ending
        self._is_told = False
        self._cancel: Callable[[], object] | None = None
        bindings = KeyBindings()
        bindings.add("escape", "enter")(_insert_line_end)
        self._input, self._output = create_input(keyboard), _output(screen)
        with create_app_session(self._input, self._output):
            self._session: PromptSession[str] = PromptSession(
                history=InMemoryHistory(history), key_bindings=bindings, prompt_continuation=_continuation
            )

    def read(self, prompt: str) -> str:
        """See LineSource.

        The keyboard is in raw mode before the prompt is seen: what is typed at once is not echoed twice, and Ctrl-C
        is a key from there on, not a signal that comes wherever the library just is. What tells the program to end
        comes to the library as the cancelling of its task.
        """
        with self._ending.held_back(self._wake), self._as_before():
            try:
                line = asyncio.run(self._prompt(prompt))
            except KeyboardInterrupt as error:
                if self._session.default_buffer.text:
                    raise ClearedError from error
                raise
        if line.strip():
            self._on_line(line)
        return line

    async def _prompt(self, prompt: str) -> str:
        task, loop = asyncio.current_task(), asyncio.get_running_loop()
        assert task is not None
        self._cancel = partial(loop.call_soon_threadsafe, task.cancel)
        try:
            if self._is_told:
                return ""
            return await self._session.prompt_async([("ansicyan", prompt)])
        finally:
            self._cancel = None

    def _wake(self) -> None:
        self._is_told = True
        if self._cancel:
            self._cancel()

    @contextlib.contextmanager
    def _as_before(self) -> Iterator[None]:
        """Raw mode within it, and the terminal's own modes after it."""
        modes = termios.tcgetattr(self._keyboard)
        try:
            with create_app_session(self._input, self._output), self._input.raw_mode():
                yield
        finally:  # a Ctrl-C just before the raw mode may have come between the library and its own tidying up
            termios.tcsetattr(self._keyboard, termios.TCSANOW, modes)


def _output(screen: TextIO) -> Output:
    if is_dumb_terminal():
        return PlainTextOutput(screen)
    # Asking the terminal where its cursor is would help menus alone, and not every terminal answers.
    return Vt100_Output(
        screen,
        lambda: _size(screen),
        term=os.environ.get("TERM"),
        default_color_depth=ColorDepth.from_env(),  # none with NO_COLOR
        enable_cpr=False,
    )


def _insert_line_end(event: KeyPressEvent) -> None:
    event.current_buffer.insert_text("\n")


def _continuation(_width: int, _line: int, wrap_count: int) -> str:
    """What stands before the second line of a message and those after it, but not before the rest of a long line."""
    return "" if wrap_count else "... "


def _size(screen: TextIO) -> Size:
    try:
        size = os.get_terminal_size(screen.fileno())
    except OSError:
        return _USUAL_SIZE
    return Size(rows=size.lines or _USUAL_SIZE.rows, columns=size.columns or _USUAL_SIZE.columns)
