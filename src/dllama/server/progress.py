"""What a stream says while no text comes: how much of the prompt is computed, as comments between its events."""

from __future__ import annotations

from collections.abc import Sequence

from dllama.engine import PromptProgress
from dllama.server.http import Comment

NEWS_S = 0.5
"""Between two comments that say something new."""

SILENCE_S = 3.0
"""The longest time without a byte; proxies on the way give up after a minute, and people sooner."""


class PromptWatch:
    """The prompts of one request's choices, together. Times are seconds of any steady clock."""

    def __init__(self, n_prompts: Sequence[int], now_s: float) -> None:
        """`n_prompts` are the tokens of each."""
        self._parts = [PromptProgress(0, n) for n in n_prompts]
        self._told = PromptProgress(0, 0)
        self._told_s = now_s

    def update(self, index: int, progress: PromptProgress) -> None:
        self._parts[index] = progress

    def finish(self, index: int, now_s: float, *, is_shown: bool) -> None:
        """A choice that writes is through with its prompt; what is shown of it is a sign of life itself."""
        n_total = self._parts[index].n_total
        self._parts[index] = PromptProgress(n_total, n_total)
        if is_shown:
            self._told_s = now_s

    def due(self, now_s: float) -> PromptProgress | None:
        """What is to be said now, if anything; it counts as said."""
        together = PromptProgress(
            sum(part.n_done for part in self._parts), sum(part.n_total for part in self._parts)
        )
        wait_s = SILENCE_S if together == self._told else NEWS_S
        if now_s - self._told_s < wait_s:
            return None
        self._told, self._told_s = together, now_s
        return together


def prompt_comment(progress: PromptProgress) -> Comment:
    """`prompt 512/7500`."""
    return Comment(f"prompt {progress.n_done}/{progress.n_total}")
