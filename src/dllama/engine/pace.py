"""How long steps take, from those that were measured, and how many rows of prompts may share one."""

from __future__ import annotations

import bisect
import math

_LONGEST_GAP = 2.25
"""A step with prompt rows may take so many times what it takes without them: the aim of 3 times at the 99th
percentile, less what steps vary by themselves."""

_FIRST_ROWS = 4
"""Prompt rows beside decoding ones as long as nothing is known of what they cost."""

_GROWTH = 2
"""More rows than twice those of the last time are beyond what was measured."""

_RENEW_AFTER = 64
"""Steps with prompt rows after which one without them is measured again: texts have grown meanwhile."""

_DOUBLING = 8
"""A first guess, where only one size was measured: so many more rows make a step of one row take twice as long."""

_NEW_WEIGHT = 0.2
"""Of a new measurement in the running mean."""

_OUTLIER = 2.0
"""A step that took longer than so many times the mean was held up by something else; it counts as that much."""


class StepPace:
    """Running means of the seconds of steps, by how many rows they had."""

    def __init__(self, max_rows: int) -> None:
        self._max_rows = max_rows
        self._decode_s: dict[int, float] = {}
        self._n_mixed: dict[int, int] = {}  # steps with prompt rows since that mean was renewed
        self._prompt_row_s = math.nan
        self._last_rows = _FIRST_ROWS // _GROWTH

    def observe(self, n_decode: int, n_prompt: int, seconds: float) -> None:
        """A step of `n_decode` rows of texts that are being written and `n_prompt` rows of prompts took so long."""
        if not n_prompt:
            self._decode_s[n_decode] = _mean(self._decode_s.get(n_decode, math.nan), seconds)
            self._n_mixed[n_decode] = 0
        elif n_decode in self._decode_s:
            self._n_mixed[n_decode] += 1
            row_s = max(seconds - self._decode_s[n_decode], 0.0) / n_prompt
            self._prompt_row_s = _mean(self._prompt_row_s, row_s)
            self._last_rows = n_prompt

    def decode_s(self, n_rows: int) -> float:
        """Seconds of a step of `n_rows` without prompts, from those of the nearest sizes; 1 if there was none."""
        known = self._decode_s.get(n_rows)
        if known is not None:
            return known
        sizes = sorted(self._decode_s)
        if not sizes:
            return 1.0
        if len(sizes) == 1:
            (size,) = sizes
            return self._decode_s[size] * (_DOUBLING + n_rows) / (_DOUBLING + size)
        place = min(max(bisect.bisect(sizes, n_rows), 1), len(sizes) - 1)
        below, above = sizes[place - 1], sizes[place]
        slope = (self._decode_s[above] - self._decode_s[below]) / (above - below)
        return self._decode_s[below] + (n_rows - below) * max(slope, 0.0)

    def prompt_rows(self, n_decode: int) -> int:
        """How many rows of prompts may go into a step beside `n_decode` others, so that those are not held up.

        0 when a step without them has to be measured first.
        """
        if not n_decode:
            return self._max_rows
        usual_s = self._decode_s.get(n_decode)
        if usual_s is None or self._n_mixed[n_decode] >= _RENEW_AFTER:
            return 0
        n_rows = _GROWTH * self._last_rows
        if self._prompt_row_s * n_rows > (_LONGEST_GAP - 1) * usual_s:
            n_rows = int((_LONGEST_GAP - 1) * usual_s / self._prompt_row_s)
        return max(1, min(n_rows, self._max_rows - n_decode))


def _mean(old: float, new: float) -> float:
    if math.isnan(old):
        return new
    return old + _NEW_WEIGHT * (min(new, _OUTLIER * old) - old)
