"""The text of an answer, as it comes, is told apart into what the model thought and what it says."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from dllama.answers.reasoning_formats import ReasoningFormat, Stage
from dllama.answers.tool_output import AnswerText


@dataclasses.dataclass(frozen=True)
class Reasoning:
    """More of what the model thinks before it answers."""

    text: str


class ReasoningOutput:
    """Feed it the pieces of a text; the concatenation of what comes out does not depend on how it was cut.

    The marks, and blanks beside them, belong to neither part.
    """

    def __init__(self, reasoning: ReasoningFormat, stage: Stage) -> None:
        """The text begins at `stage`."""
        self._opener, self._closer = reasoning.opener, reasoning.closer
        self._stage = stage
        self._waiting = ""
        self._is_begun = stage is Stage.ANSWERS
        """Whether something of the present part came out: until then blanks are passed over."""

    def feed(self, text: str) -> Iterator[Reasoning | AnswerText]:
        self._waiting += text
        if self._stage is not Stage.ANSWERS and not self._is_begun:
            self._begin()
        if self._stage is Stage.THINKS:
            yield from self._think()
        if self._stage is Stage.ANSWERS:
            yield from self._answer()

    def end(self) -> Iterator[Reasoning | AnswerText]:
        """What still waited because it might have become a mark."""
        kind = Reasoning if self._stage is Stage.THINKS else AnswerText
        rest = self._waiting.rstrip() if kind is Reasoning else self._waiting
        self._waiting = ""
        if rest:
            yield kind(rest)

    def _begin(self) -> None:
        """Passes over an opener, also after one in the prompt; looks whether there will be none."""
        begins = self._waiting.lstrip()
        if begins.startswith(self._opener):
            self._stage, self._waiting = Stage.THINKS, begins[len(self._opener) :].lstrip()
            self._is_begun = bool(self._waiting)
        elif not self._opener.startswith(begins):
            self._is_begun = True
            if self._stage is Stage.MAY_THINK:
                self._stage = Stage.ANSWERS
            else:
                self._waiting = begins

    def _think(self) -> Iterator[Reasoning]:
        if not self._is_begun:
            return
        thought, found, after = self._waiting.partition(self._closer)
        if found:
            self._stage, self._waiting, self._is_begun = Stage.ANSWERS, after, False
            settled = thought.rstrip()
        else:
            n_kept = max(n for n in range(len(self._closer) + 1) if self._waiting.endswith(self._closer[:n]))
            settled = self._waiting[: len(self._waiting) - n_kept].rstrip()
            self._waiting = self._waiting[len(settled) :]
        if settled:
            yield Reasoning(settled)

    def _answer(self) -> Iterator[AnswerText]:
        text = self._waiting if self._is_begun else self._waiting.lstrip()
        self._waiting = ""
        if text:
            self._is_begun = True
            yield AnswerText(text)
