"""The text of an answer, as it comes, is told apart into thoughts, content and calls, in the model's format."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol, TypeAlias

from dllama.answers.harmony import HarmonyOutput
from dllama.answers.reasoning_output import Reasoning, ReasoningOutput
from dllama.answers.tool_formats import JsonCalls, TaggedCalls, ToolFormat
from dllama.answers.tool_output import AnswerText, Part, ToolOutput
from dllama.server.prompt import ChatPrompt
from dllama.server.request_parts import Function
from dllama.server.tagged_output import TaggedOutput

AnswerPart: TypeAlias = Reasoning | Part


class AnswerOutput(Protocol):
    """Fed the pieces of a text; the concatenation of what comes out does not depend on how it was cut."""

    @property
    def n_calls(self) -> int: ...

    def feed(self, text: str) -> Iterator[AnswerPart]: ...

    def end(self) -> Iterator[AnswerPart]: ...


def answer_output(
    prompt: ChatPrompt,
    tool_format: ToolFormat | None,
    functions: Sequence[Function] = (),
    *,
    tells_thoughts: bool,
) -> AnswerOutput:
    """`functions` are those that may be called. Without a tool format calls stay content; so do thoughts unless it
    `tells_thoughts`."""
    if prompt.has_channels:
        return HarmonyOutput(prompt.stage, has_tools=tool_format is not None, tells_thoughts=tells_thoughts)
    calls = call_output(tool_format, functions) if tool_format is not None else None
    return _MarkedOutput(prompt.output() if tells_thoughts else None, calls)


def call_output(tool_format: ToolFormat, functions: Sequence[Function]) -> ToolOutput | TaggedOutput:
    """Tells calls apart that stand in the answer itself."""
    if isinstance(tool_format, TaggedCalls):
        return TaggedOutput(tool_format, functions)
    assert isinstance(tool_format, JsonCalls)
    return ToolOutput(tool_format)


class _MarkedOutput:
    """A thought between marks, then content with calls."""

    def __init__(self, reasoning: ReasoningOutput | None, calls: ToolOutput | TaggedOutput | None) -> None:
        self._reasoning, self._calls = reasoning, calls

    @property
    def n_calls(self) -> int:
        return self._calls.n_calls if self._calls is not None else 0

    def feed(self, text: str) -> Iterator[AnswerPart]:
        if self._reasoning is not None:
            yield from self._told_apart(self._reasoning.feed(text))
        elif text:
            yield from self._told_apart([AnswerText(text)])

    def end(self) -> Iterator[AnswerPart]:
        if self._reasoning is not None:
            yield from self._told_apart(self._reasoning.end())
        if self._calls is not None:
            yield from self._calls.end()

    def _told_apart(self, parts: Iterable[Reasoning | AnswerText]) -> Iterator[AnswerPart]:
        """With the calls in what the model says."""
        for part in parts:
            if isinstance(part, AnswerText) and self._calls is not None:
                yield from self._calls.feed(part.text)
            else:
                yield part
