"""What a model thinks and what it says, in a chat without tools."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Protocol

from dllama.answers import harmony
from dllama.answers.harmony import HarmonyOutput
from dllama.answers.reasoning_formats import reasoning_format_of, stage_after
from dllama.answers.reasoning_output import Reasoning, ReasoningOutput
from dllama.answers.tool_output import AnswerText
from dllama.tokenizer import ChatTemplate


@dataclasses.dataclass(frozen=True)
class Thought:
    """More of what the model thinks before it answers."""

    text: str


class ChatOutput(Protocol):
    """Fed the pieces of a text, as it comes, gives what is said as str."""

    def feed(self, text: str) -> Iterator[str | Thought]: ...

    def end(self) -> Iterator[str | Thought]: ...


def chat_output(template: ChatTemplate, prompt: str) -> ChatOutput:
    """For the answer to `prompt`, which `template` wrote."""
    if harmony.has_channels(template.source):
        return _ToldApart(HarmonyOutput(harmony.stage_of(prompt), has_tools=False))
    reasoning = reasoning_format_of(template.source, template.tokenizer)
    if reasoning is None:
        return _Plain()
    return _ToldApart(ReasoningOutput(reasoning, stage_after(prompt, reasoning)))


def mark_ids(template: ChatTemplate) -> tuple[frozenset[int], frozenset[int]]:
    """The tokens that `chat_output` has to see by their names, and those that end an answer beside the template's."""
    if harmony.has_channels(template.source):
        special_tokens = template.tokenizer.special_tokens
        return harmony.mark_ids(special_tokens), harmony.end_ids(special_tokens)
    reasoning = reasoning_format_of(template.source, template.tokenizer)
    ids = reasoning.token_ids(template.tokenizer) if reasoning is not None else {}
    return frozenset(ids.values()), frozenset()


class _Plain:
    """All is said."""

    def feed(self, text: str) -> Iterator[str | Thought]:
        if text:
            yield text

    def end(self) -> Iterator[str | Thought]:
        return iter(())


class _ToldApart:
    def __init__(self, output: ReasoningOutput | HarmonyOutput) -> None:
        self._output = output

    def feed(self, text: str) -> Iterator[str | Thought]:
        return _pieces(self._output.feed(text))

    def end(self) -> Iterator[str | Thought]:
        return _pieces(self._output.end())


def _pieces(parts: Iterable[object]) -> Iterator[str | Thought]:
    for part in parts:
        if isinstance(part, Reasoning):
            yield Thought(part.text)
        elif isinstance(part, AnswerText):
            yield part.text
