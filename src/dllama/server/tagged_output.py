"""Calls whose arguments stand between tags of their own become calls with JSON arguments, as they come."""

from __future__ import annotations

import enum
import json
import re
from collections.abc import Iterator, Mapping, Sequence

from dllama.answers.tool_formats import TaggedCalls
from dllama.answers.tool_output import AnswerText, CallArguments, CallBegins, Part
from dllama.server.parameter_types import TEXT, as_json, parameter_types, types_of
from dllama.server.request_parts import Function


class _State(enum.Enum):
    TEXT = enum.auto()
    BETWEEN = enum.auto()
    PARAMETERS = enum.auto()
    VALUE = enum.auto()


class TaggedOutput:
    """Feed it the pieces of a text; the concatenation of what comes out does not depend on how it was cut.

    Text comes as it is written, other values when they are complete. White space around tags is free, but for a line
    break on either side of a value where the format has one.
    """

    def __init__(self, tool_format: TaggedCalls, functions: Sequence[Function]) -> None:
        self._opener = tool_format.opener.strip()
        self._call = re.compile(
            _loose(tool_format.before_name or tool_format.opener)
            + r"\s*([a-zA-Z0-9_.:/-]+)\s*"
            + (_loose(tool_format.after_name) or "(?=<)")
        )
        ends = [_loose(tag) for tag in (tool_format.after, tool_format.closer) if tag.strip()]
        key = rf"{_loose(tool_format.before_key)}\s*([^\n]+?)\s*{_loose(tool_format.after_key)}"
        self._key = re.compile(f"{key}|{'|'.join(ends)}")
        self._after_value = tool_format.after_value.strip()
        self._has_lines = tool_format.after_key.endswith("\n")
        self._types = {function.name: parameter_types(function.parameters) for function in functions}
        self._of_call: Mapping[str, frozenset[str]] = {}
        self._of_value = TEXT
        self._state = _State.TEXT
        self._waiting = ""
        self._is_first = self._is_value_begun = False
        self.n_calls = 0

    def feed(self, text: str) -> Iterator[Part]:
        self._waiting += text
        while True:
            before = (self._state, len(self._waiting), self._is_value_begun)
            yield from self._advance()
            if before == (self._state, len(self._waiting), self._is_value_begun):
                return

    def end(self) -> Iterator[Part]:
        """What still waited because it might have become a tag."""
        if self._waiting and self._state is _State.TEXT:
            yield AnswerText(self._waiting)
        elif self._waiting and self._state is _State.VALUE and self._of_value == TEXT:
            yield self._more(_escaped(self._waiting))
        self._waiting = ""

    def _advance(self) -> Iterator[Part]:
        if self._state is _State.TEXT:
            yield from self._text()
        elif self._state is _State.BETWEEN:
            yield from self._between()
        elif self._state is _State.PARAMETERS:
            yield from self._parameters()
        elif self._has_lines and not self._is_value_begun:
            if self._waiting:
                self._waiting = self._waiting.removeprefix("\n")
                self._is_value_begun = True
        else:
            yield from self._value()

    def _text(self) -> Iterator[Part]:
        place = self._waiting.find(self._opener)
        upto = place if place >= 0 else len(self._waiting) - _n_begun(self._waiting, self._opener)
        settled = self._waiting[:upto].rstrip()  # a call swallows blanks before it
        if place >= 0:
            self._waiting, self._state = self._waiting[place:], _State.BETWEEN
        else:
            self._waiting = self._waiting[len(settled) :]
        if settled:
            yield AnswerText(settled)

    def _between(self) -> Iterator[Part]:
        found = self._call.search(self._waiting)
        if found:
            self._waiting, self._state = self._waiting[found.end() :], _State.PARAMETERS
            self._of_call, self._is_first = self._types.get(found[1], {}), True
            self.n_calls += 1
            yield CallBegins(self.n_calls - 1, found[1])

    def _parameters(self) -> Iterator[Part]:
        found = self._key.search(self._waiting)
        if not found:
            return
        self._waiting = self._waiting[found.end() :]
        lead = "{" if self._is_first else ", "
        if found[1] is None:
            self._state = _State.BETWEEN
            yield self._more("{}" if self._is_first else "}")
            return
        self._state, self._is_first, self._is_value_begun = _State.VALUE, False, False
        self._of_value = self._of_call.get(found[1], types_of(None, {}))
        quote = '"' if self._of_value == TEXT else ""
        yield self._more(f"{lead}{json.dumps(found[1], ensure_ascii=False)}: {quote}")

    def _value(self) -> Iterator[Part]:
        value, found, after = self._waiting.partition(self._after_value)
        is_text = self._of_value == TEXT
        if found:
            self._waiting, self._state = after, _State.PARAMETERS
            if self._has_lines:
                value = value.removesuffix("\n")
            yield self._more(f'{_escaped(value)}"' if is_text else as_json(value, self._of_value))
        elif is_text:
            n_kept = _n_begun(self._waiting, self._after_value)
            if self._has_lines:
                n_kept = max(n_kept, _n_begun(self._waiting, "\n" + self._after_value))
            settled = self._waiting[: len(self._waiting) - n_kept]
            self._waiting = self._waiting[len(settled) :]
            if settled:
                yield self._more(_escaped(settled))

    def _more(self, text: str) -> CallArguments:
        return CallArguments(self.n_calls - 1, text)


def _loose(tag: str) -> str:
    """As a pattern: without white space at its ends, and with any between two tags."""
    return r"\s*".join(re.escape(part) for part in re.split(r"(?<=>)\s*(?=<)", tag.strip()))


def _n_begun(text: str, mark: str) -> int:
    """How many characters at the end of `text` may be the beginning of `mark`."""
    return max(n for n in range(len(mark) + 1) if text.endswith(mark[:n]))


def _escaped(text: str) -> str:
    """As it stands within a JSON string."""
    return json.dumps(text, ensure_ascii=False)[1:-1]
