"""The text of an answer, as it comes, is told apart into content and calls of tools."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Iterator
from typing import TypeAlias

from dllama.answers.tool_formats import JsonCalls


@dataclasses.dataclass(frozen=True)
class AnswerText:
    text: str


@dataclasses.dataclass(frozen=True)
class CallBegins:
    """Call number `index` of this answer. `id` is the one that the model gave it."""

    index: int
    name: str
    id: str | None = None


@dataclasses.dataclass(frozen=True)
class CallArguments:
    """More of the arguments of call `index`, as they were written."""

    index: int
    text: str


Part: TypeAlias = AnswerText | CallBegins | CallArguments


class _State(enum.Enum):
    TEXT = enum.auto()
    BETWEEN = enum.auto()
    ARGUMENTS = enum.auto()


class ToolOutput:
    """Feed it the pieces of a text; the concatenation of what comes out does not depend on how it was cut."""

    def __init__(self, tool_format: JsonCalls) -> None:
        self._format = tool_format
        self._head = tool_format.head
        self._state = _State.TEXT
        self._waiting = ""
        self._arguments = _JsonObject()
        self._has_content = False
        self.n_calls = 0

    def feed(self, text: str) -> Iterator[Part]:
        self._waiting += text
        while True:
            state, n_waiting = self._state, len(self._waiting)
            yield from self._advance()
            if (self._state, len(self._waiting)) == (state, n_waiting):
                return

    def end(self) -> Iterator[Part]:
        """What still waited because it might have become a call."""
        if self._state is _State.TEXT:
            yield from self._content(self._waiting)
        self._waiting = ""

    def _advance(self) -> Iterator[Part]:
        if self._state is _State.TEXT:
            yield from self._text()
        elif self._state is _State.BETWEEN:
            found = self._head.search(self._waiting)
            if found:
                self._waiting = self._waiting[found.end() :]
                self._state = _State.ARGUMENTS
                self._arguments = _JsonObject()
                lead = self._format.id_lead
                own_id = f"{lead}{found[1]}:{found[2]}" if self._format.is_numbered else None
                yield CallBegins(self.n_calls, found[1], own_id)
                self.n_calls += 1
        else:
            n = self._arguments.feed(self._waiting)
            if n:
                yield CallArguments(self.n_calls - 1, self._waiting[:n])
                self._waiting = self._waiting[n:]
            if self._arguments.is_closed:
                self._state = _State.BETWEEN

    def _text(self) -> Iterator[Part]:
        opener = self._format.opener
        if not opener:
            yield from self._text_unless_it_begins_with_a_call()
            return
        before, found, after = self._waiting.partition(opener)
        if found:
            yield from self._content(before.rstrip())
            self._waiting, self._state = after, _State.BETWEEN
            return
        n_kept = max(n for n in range(len(opener) + 1) if self._waiting.endswith(opener[:n]))
        settled = self._waiting[: len(self._waiting) - n_kept].rstrip()  # a call swallows blanks before it
        self._waiting = self._waiting[len(settled) :]
        yield from self._content(settled)

    def _text_unless_it_begins_with_a_call(self) -> Iterator[Part]:
        before_name = self._format.before_name
        if not self._has_content and self._waiting.startswith(before_name):
            self._state = _State.BETWEEN
        elif self._has_content or not before_name.startswith(self._waiting):
            text, self._waiting = self._waiting, ""
            yield from self._content(text)

    def _content(self, text: str) -> Iterator[Part]:
        if text:
            self._has_content = True
            yield AnswerText(text)


class _JsonObject:
    """Finds where a JSON object ends."""

    def __init__(self) -> None:
        self._depth = 0
        self._in_string = False
        self._escaped = False
        self.is_closed = False

    def feed(self, text: str) -> int:
        """How many characters of `text` belong to it."""
        for index, character in enumerate(text):
            if self._escaped:
                self._escaped = False
            elif self._in_string:
                self._escaped = character == "\\"
                self._in_string = character != '"'
            elif character == '"':
                self._in_string = True
            elif character in "{[":
                self._depth += 1
            elif character in "}]":
                self._depth -= 1
                if self._depth == 0:
                    self.is_closed = True
                    return index + 1
        return len(text)
