"""Draft tokens from the text itself: what followed the last few tokens before will probably follow them again.

(Prompt lookup: Saxena 2023; speculative verification: Leviathan et al. 2023.) A draft that is not verified costs
nothing, so drafting goes on while it does not pay, and tells when it would.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

_SIZES = (3, 2)
"""Tokens that have to be alike before tokens are drafted, tried in this order."""

_NEW_WEIGHT = 0.25
"""Weight of one draft token in the running rate of those that came true: a copied passage is noticed within six
tokens, and left as fast (docs/log.md)."""

_LEAST_GAIN = 1.05
"""Draft tokens are verified when that promises so much more speed; below it the measured times decide nothing."""


class Speculator:
    """Follows one text; drafts its next tokens, and keeps count of how often the first draft token came true."""

    def __init__(self, token_ids: Iterable[int], longest: int) -> None:
        self._longest = longest
        self._token_ids: list[int] = []
        self._after: dict[tuple[int, ...], int] = {}  # where it goes on after these tokens, the last time
        self._source: int | None = None  # where the drafted next token stands
        self.rate = 0.0
        for token_id in token_ids:
            self._append(token_id)
        self._source = self._look_up()

    def add(self, token_id: int) -> None:
        """The text's next token is known."""
        if self._source is not None:
            is_right = self._token_ids[self._source] == token_id
            self.rate += _NEW_WEIGHT * (is_right - self.rate)
            self._source = self._source + 1 if is_right else None
        self._append(token_id)
        if self._source is None:
            self._source = self._look_up()

    def draft(self, n_used: int, n_most: int, step_s: Callable[[int], float]) -> tuple[int, ...]:
        """The tokens that are worth verifying in a step that has `n_used` rows, at most `n_most`.

        `step_s(rows)` is what a step takes. More draft tokens come true and cost more; the best number is that which
        makes the most tokens a second of the whole step.
        """
        if self._source is None:
            return ()
        best, best_speed = 0, _LEAST_GAIN * n_used / step_s(n_used)
        expected, chance = float(n_used), 1.0
        for n in range(1, min(n_most, self._longest) + 1):
            chance *= self.rate
            expected += chance
            speed = expected / step_s(n_used + n)
            if speed > best_speed:
                best, best_speed = n, speed
        return self._continuation(self._source, best)

    def _continuation(self, source: int, n: int) -> tuple[int, ...]:
        """`n` tokens from `source` on; where they reach the text's end they go on as what they repeat."""
        period = len(self._token_ids) - source
        return tuple(self._token_ids[source + index % period] for index in range(n))

    def _look_up(self) -> int | None:
        for size in _SIZES:
            source = self._after.get(tuple(self._token_ids[-size:]))
            if source is not None:
                return source
        return None

    def _append(self, token_id: int) -> None:
        """Notes what followed the tokens before; those that end the text are not noted until something follows."""
        for size in _SIZES:
            if len(self._token_ids) >= size:
                self._after[tuple(self._token_ids[-size:])] = len(self._token_ids)
        self._token_ids.append(token_id)
