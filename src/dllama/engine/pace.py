"""How long steps take, from those that were measured, and how many rows of prompts may share one."""

from __future__ import annotations

import bisect

_LONGEST_GAP = 3.0
"""A step with prompt rows should not take more than so many times what it takes without them."""

_LATE_SHARE = 0.005
"""The part of such steps that may take longer all the same; half of the one in a hundred that is promised."""

_FIRST_AIM, _LEAST_AIM, _LARGEST_AIM = 2.0, 1.25, 2.75
"""What is aimed at in place of 3, since steps vary by themselves: little on a machine of its own, much on a shared one.
The aim rises after every step in time and falls after a late one, so that as many are late as may be."""

_AIM_CHANGE = 0.1
"""By which a late step lowers the aim."""

_FIRST_ROWS = 4
"""Prompt rows beside decoding ones as long as nothing is known of what they cost."""

_LONGEST_STEP_S = 2.0
"""For a step of prompts alone: so long does a newcomer or a cancel go unheard at the most."""

_FIRST_ROWS_ALONE = 64
"""In a step of prompts alone as long as nothing is known: half a minute on the slowest of computers."""

_CHANGE = 2.0
"""What a row of a prompt costs changes by this factor at the most from one measurement to the next, so that rows that
seem free are tried out step by step, and a step that was held up by something else does little."""

_RENEW_AFTER = 64
"""Steps with prompt rows after which one without them is measured again: texts have grown meanwhile."""

_DOUBLING = 8
"""A first guess, where only one size was measured: so many more rows make a step of one row take twice as long."""

_NEW_WEIGHT = 0.2
"""Weight of a new measurement in the running mean."""

_OUTLIER = 1.25
"""A step that took longer than so many times the mean was held up by something else; it counts as that much."""


class StepPace:
    """Running means of the seconds of steps, by how many rows they had."""

    def __init__(self, max_rows: int) -> None:
        self._max_rows = max_rows
        self._decode_s: dict[int, float] = {}
        self._n_mixed: dict[int, int] = {}  # steps with prompt rows since that mean was renewed
        self._prompt_row_s: float | None = None  # beside other rows
        self._lone_row_s: float | None = None
        self._aim = _FIRST_AIM

    def observe(self, n_decode: int, n_prompt: int, seconds: float) -> None:
        """A step of `n_decode` rows of texts that are being written and `n_prompt` rows of prompts took so long."""
        if not n_decode:
            row_s = seconds / n_prompt
            self._lone_row_s = row_s if self._lone_row_s is None else (self._lone_row_s + row_s) / 2
        elif not n_prompt:
            old = self._decode_s.get(n_decode, seconds)
            self._decode_s[n_decode] = old + _NEW_WEIGHT * (min(seconds, _OUTLIER * old) - old)
            self._n_mixed[n_decode] = 0
        elif n_decode in self._decode_s:
            self._n_mixed[n_decode] += 1
            self._observe_prompt(n_prompt, seconds, self._decode_s[n_decode])

    def _observe_prompt(self, n_rows: int, seconds: float, usual_s: float) -> None:
        is_late = seconds > _LONGEST_GAP * usual_s
        self._aim += _AIM_CHANGE * (_LATE_SHARE - is_late)
        self._aim = min(max(self._aim, _LEAST_AIM), _LARGEST_AIM)
        old = self._row_s(usual_s)
        row_s = (seconds - usual_s) / n_rows
        self._prompt_row_s = (old + min(max(row_s, old / _CHANGE), old * _CHANGE)) / 2

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
            n_rows = int(_LONGEST_STEP_S / self._lone_row_s) if self._lone_row_s else _FIRST_ROWS_ALONE
            return max(1, min(n_rows, self._max_rows))
        usual_s = self._decode_s.get(n_decode)
        if usual_s is None or self._n_mixed[n_decode] >= _RENEW_AFTER:
            return 0
        n_rows = int((self._aim - 1) * usual_s / self._row_s(usual_s))
        return max(1, min(n_rows, self._max_rows - n_decode))

    def _row_s(self, usual_s: float) -> float:
        """What one more row of a prompt costs."""
        if self._prompt_row_s is None:
            return (_FIRST_AIM - 1) * usual_s / _FIRST_ROWS
        return self._prompt_row_s
