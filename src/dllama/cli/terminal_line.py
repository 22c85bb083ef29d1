"""The line in which a person types, with its keys, its history and pasting.

Nothing imports this but a chat in a terminal: the library takes a third of a second.
"""

from __future__ import annotations

import os
import termios
from collections.abc import Callable, Sequence
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

_USUAL_SIZE = Size(rows=24, columns=80)


class TerminalLine:
    """A LineSource. Several lines that are pasted are one entry, and so are those that Alt-Enter puts in."""

    is_person = True

    def __init__(
        self, keyboard: TextIO, screen: TextIO, history: Sequence[str], on_line: Callable[[str], None]
    ) -> None:
        """`history`: earlier lines, the oldest first; `on_line` gets each new one."""
        self._keyboard, self._on_line = keyboard, on_line
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
        is a key from there on, not a signal that comes wherever the library just is.
        """
        modes = termios.tcgetattr(self._keyboard)
        try:
            with create_app_session(self._input, self._output), self._input.raw_mode():
                try:
                    line: str = self._session.prompt([("ansicyan", prompt)])
                except KeyboardInterrupt as error:
                    if self._session.default_buffer.text:
                        raise ClearedError from error
                    raise
                if line.strip():
                    self._on_line(line)
                return line
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
