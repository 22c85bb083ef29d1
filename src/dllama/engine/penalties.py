"""Changes of logits that depend on what was already said, and those that a request asks for outright."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from typing import Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from dllama.engine.sampler import SamplingOptions
from dllama.model import LogitEdits

RowEdits: TypeAlias = tuple[NDArray[np.int32], NDArray[np.float32], NDArray[np.float32]]
"""ids, scale and add of one row, as in LogitEdits."""

_FIRST_SIZE = 16


class Penalties:
    """Repetition over prompt and text (Keskar et al. 2019, CTRL), presence and frequency over the text (OpenAI's
    definition), and biases."""

    def __init__(self, options: SamplingOptions, prompt_ids: Iterable[int]) -> None:
        self._repetition = options.repetition_penalty
        self._presence, self._frequency = options.presence_penalty, options.frequency_penalty
        self._counts = self._repetition != 1 or bool(self._presence or self._frequency)
        self._said: set[int] = set()  # in the text
        self._place: dict[int, int] = {}  # of each token that is changed, in the arrays
        self._ids = np.zeros(_FIRST_SIZE, np.int32)
        self._scale = np.ones(_FIRST_SIZE, np.float32)
        self._add = np.zeros(_FIRST_SIZE, np.float32)
        for token_id, bias in options.logit_bias.items():
            place = self._place_of(token_id)
            self._add[place] = bias
        for token_id in prompt_ids if self._repetition != 1 else ():
            place = self._place_of(token_id)
            self._scale[place] = self._repetition

    @classmethod
    def of(cls, options: SamplingOptions, prompt_ids: Iterable[int]) -> Self | None:
        """None when these options change no logit."""
        penalties = (options.presence_penalty, options.frequency_penalty, options.repetition_penalty - 1)
        return cls(options, prompt_ids) if any(penalties) or options.logit_bias else None

    def count(self, token_id: int) -> None:
        """A token was added to the text."""
        if not self._counts:
            return
        place = self._place_of(token_id)
        self._scale[place] = self._repetition
        self._add[place] -= self._frequency + (0 if token_id in self._said else self._presence)
        self._said.add(token_id)

    def edits(self, draft_ids: Sequence[int]) -> list[RowEdits]:
        """For the next token, and for those after each of the `draft_ids`."""
        rows = [self._row()]
        if draft_ids:
            ahead = copy.deepcopy(self)
            for token_id in draft_ids:
                ahead.count(token_id)
                rows.append(ahead._row())
        return rows

    def _row(self) -> RowEdits:
        n = len(self._place)
        return self._ids[:n].copy(), self._scale[:n].copy(), self._add[:n].copy()

    def _place_of(self, token_id: int) -> int:
        """Where this token is in the arrays, which may be others afterwards."""
        place = self._place.get(token_id)
        if place is None:
            place = self._place[token_id] = len(self._place)
            if place == len(self._ids):
                self._ids = np.concatenate([self._ids, np.zeros_like(self._ids)])
                self._scale = np.concatenate([self._scale, np.ones_like(self._scale)])
                self._add = np.concatenate([self._add, np.zeros_like(self._add)])
            self._ids[place] = token_id
        return place


def joined_edits(rows: Sequence[RowEdits | None]) -> LogitEdits | None:
    """Those of all rows of a step; None when there are none."""
    changed = [(index, row) for index, row in enumerate(rows) if row is not None]
    if not changed:
        return None
    return LogitEdits(
        index=np.repeat(
            np.asarray([index for index, _ in changed], np.int32), [len(row[0]) for _, row in changed]
        ),
        ids=np.concatenate([row[0] for _, row in changed]),
        scale=np.concatenate([row[1] for _, row in changed]),
        add=np.concatenate([row[2] for _, row in changed]),
    )
