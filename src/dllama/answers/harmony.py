"""The format of gpt-oss: an answer is several messages, each on a channel.

    <|channel|>analysis<|message|>THOUGHT<|end|><|start|>assistant<|channel|>final<|message|>ANSWER<|return|>
    <|channel|>commentary to=functions.NAME <|constrain|>json<|message|>{...}<|call|>

The recipient may also stand before the channel, as the template writes it: `<|start|>assistant to=functions.NAME
<|channel|>commentary json<|message|>`. Commentary without a recipient is said to the user before a call. Source:
OpenAI's cookbook, "OpenAI harmony response format".
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from dllama.answers.reasoning_formats import Stage
from dllama.answers.reasoning_output import Reasoning
from dllama.answers.tool_output import AnswerText, CallArguments, CallBegins, Part

MARKS = ("<|start|>", "<|channel|>", "<|constrain|>", "<|message|>", "<|end|>")
"""What is written between the texts of messages."""

_ENDS = ("<|return|>", "<|call|>")
_STOPS = ("<|end|>", *_ENDS, "<|start|>", "<|channel|>")
"""What ends the text of a message; the latter two where its end was left out."""

_HEADER_BEGINS = (*_STOPS, "<|constrain|>", "<|message|>", "to=")
_RECIPIENT = re.compile(r"\bto=([^\s<]+)")
_CHANNEL = re.compile(r"<\|channel\|>\s*(\w+)")
_BETWEEN = "\n\n"
"""Stands between two messages of one kind, which clients see as one text."""


def has_channels(template: str) -> bool:
    """Whether a chat template's source writes this format."""
    return "<|channel|>" in template and "<|message|>" in template


def mark_ids(special_tokens: Mapping[str, int]) -> frozenset[int]:
    return frozenset(special_tokens[name] for name in MARKS if name in special_tokens)


def end_ids(special_tokens: Mapping[str, int]) -> frozenset[int]:
    """The ends of an answer and of a call."""
    return frozenset(special_tokens[name] for name in _ENDS if name in special_tokens)


def stage_of(prompt: str) -> Stage:
    """Where the answer goes on: within the final message, or before the first one."""
    _, found, text = prompt.rpartition("<|message|>")
    return Stage.ANSWERS if found and not any(stop in text for stop in _STOPS) else Stage.MAY_THINK


class HarmonyOutput:
    """Feed it the pieces of a text, marks included; the concatenation of what comes out does not depend on how it was
    cut. Text that is no message (no model writes such) is the answer."""

    def __init__(self, stage: Stage, *, has_tools: bool, tells_thoughts: bool = True) -> None:
        """The text begins at `stage`. Without tools what is written to one is part of the answer; so are thoughts if
        they are not to be told apart."""
        self._has_tools, self._tells_thoughts = has_tools, tells_thoughts
        self._waiting = ""
        self._in_header = stage is not Stage.ANSWERS
        self._kind = "answer"
        self._last_kinds: set[str] = set()
        self._is_message_begun = False
        self.n_calls = 0

    def feed(self, text: str) -> Iterator[Reasoning | Part]:
        self._waiting += text
        while True:
            before = (self._in_header, len(self._waiting))
            yield from self._header() if self._in_header else self._body()
            if before == (self._in_header, len(self._waiting)):
                return

    def end(self) -> Iterator[Reasoning | Part]:
        """What still waited because it might have become a mark."""
        rest, self._waiting = self._waiting, ""
        if not self._in_header:
            yield from self._said(rest)

    def _header(self) -> Iterator[Reasoning | Part]:
        begins = self._waiting.lstrip().removeprefix("assistant").lstrip()
        could_begin = (name.startswith(begins) or begins.startswith(name) for name in _HEADER_BEGINS)
        if not any(could_begin) and not "assistant".startswith(self._waiting.strip()):
            self._in_header, self._kind, self._is_message_begun = False, "answer", False
            return
        header, found, after = self._waiting.partition("<|message|>")
        if found:
            self._waiting = after
            yield from self._begin(header)

    def _begin(self, header: str) -> Iterator[Part]:
        self._in_header, self._is_message_begun = False, False
        channel, recipient = _CHANNEL.search(header), _RECIPIENT.search(header)
        self._kind = "answer"
        if recipient and self._has_tools and recipient[1] != "assistant":
            self._kind = "call"
            self.n_calls += 1
            yield CallBegins(self.n_calls - 1, recipient[1].removeprefix("functions."))
        elif channel and channel[1] == "analysis" and self._tells_thoughts:
            self._kind = "thought"

    def _body(self) -> Iterator[Reasoning | Part]:
        places = [place for stop in _STOPS if (place := self._waiting.find(stop)) >= 0]
        if places:
            text, self._waiting = self._waiting[: min(places)], self._waiting[min(places) :]
            yield from self._said(text)
            self._in_header = True
            return
        n_kept = max(n for stop in _STOPS for n in range(len(stop) + 1) if self._waiting.endswith(stop[:n]))
        settled = self._waiting[: len(self._waiting) - n_kept]
        self._waiting = self._waiting[len(settled) :]
        yield from self._said(settled)

    def _said(self, text: str) -> Iterator[Reasoning | Part]:
        if not text:
            return
        if self._kind == "call":
            yield CallArguments(self.n_calls - 1, text)
            return
        if not self._is_message_begun and self._kind in self._last_kinds:
            text = _BETWEEN + text
        self._is_message_begun = True
        self._last_kinds.add(self._kind)
        yield Reasoning(text) if self._kind == "thought" else AnswerText(text)
