"""What is typed into a chat: lines, messages of several lines, commands; and what Ctrl-C does there."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Iterator
from typing import Protocol

_QUOTES = '"""'


class ClearedError(Exception):
    """Ctrl-C over what was half typed: it is forgotten."""


class LineSource(Protocol):
    """Where lines come from.

    `is_person`: who types can be asked whether Ctrl-C was meant.
    """

    is_person: bool

    def read(self, prompt: str) -> str:
        """The next line, or several that were pasted. Raises EOFError at the end of the input, ClearedError for
        Ctrl-C on a line that has something on it, KeyboardInterrupt on an empty one."""
        ...


class PlainLines:
    """Lines of a pipe or a file."""

    is_person = False

    def read(self, prompt: str) -> str:
        line = sys.stdin.readline()
        if not line:
            raise EOFError
        return line.removesuffix("\n")


@dataclasses.dataclass(frozen=True)
class Typed:
    """A message, or a command, which begins with a slash. A message that does so has a space before it."""

    text: str
    is_command: bool


def inputs(source: LineSource, ask: Callable[[], None]) -> Iterator[Typed]:
    """What is typed until the end of the input, empty lines left out.

    `ask` says that another Ctrl-C ends the chat; the second one, with nothing typed in between, raises
    KeyboardInterrupt. So does the first where nobody can be asked.
    """
    was_asked = False
    while True:
        try:
            typed = _next(source)
        except EOFError:
            return
        except ClearedError:
            was_asked = False
            continue
        except KeyboardInterrupt:
            if was_asked or not source.is_person:
                raise
            was_asked = True
            ask()
            continue
        was_asked = False
        if typed.text:
            yield typed


def _next(source: LineSource) -> Typed:
    line = source.read("> ")
    if not line.lstrip().startswith(_QUOTES):
        is_command = line.startswith("/") and "\n" not in line.strip()
        return Typed(line.strip(), is_command)
    lines = [line.lstrip().removeprefix(_QUOTES)]
    while not lines[-1].rstrip().endswith(_QUOTES):
        try:
            lines.append(source.read("... "))
        except EOFError:  # it ends the message as well
            return _block(lines)
        except KeyboardInterrupt as error:
            if source.is_person:
                raise ClearedError from error
            raise
    lines[-1] = lines[-1].rstrip().removesuffix(_QUOTES)
    return _block(lines)


def _block(lines: list[str]) -> Typed:
    text = "\n".join(lines).strip("\n")
    return Typed(text if text.strip() else "", False)
