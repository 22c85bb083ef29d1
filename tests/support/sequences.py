"""Texts appended to step by step, without a scheduler: what laws about the forward pass are written in."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from dllama.engine import Executor, TokenChunk, ragged_batch
from dllama.model import Candidates


class Want(enum.Enum):
    """Which rows of a chunk of tokens the logits are wanted of."""

    NONE = enum.auto()
    LAST = enum.auto()
    ALL = enum.auto()


@dataclasses.dataclass
class CachedSequence:
    """The tokens whose keys and values are in the cache, and the pages that hold them."""

    token_ids: list[int] = dataclasses.field(default_factory=list)
    pages: list[int] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True)
class Run:
    """Tokens to append to a sequence in this step."""

    sequence: CachedSequence
    token_ids: Sequence[int]
    want: Want = Want.LAST

    @property
    def n_wanted(self) -> int:
        return {Want.NONE: 0, Want.LAST: 1, Want.ALL: len(self.token_ids)}[self.want]


class Steps:
    """Appends tokens to sequences; pages are taken lowest first."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self._free = list(range(executor.cache.n_pages - 1, -1, -1))

    def step(self, runs: Sequence[Run]) -> Candidates:
        """All runs in one batch."""
        for run in runs:
            n_tokens = len(run.sequence.token_ids) + len(run.token_ids)
            while len(run.sequence.pages) * self._executor.cache.page_size < n_tokens:
                run.sequence.pages.append(self._free.pop())
        batch = ragged_batch(
            [
                TokenChunk(run.token_ids, len(run.sequence.token_ids), run.sequence.pages, run.n_wanted)
                for run in runs
            ]
        )
        candidates = self._executor.step(batch)
        for run in runs:
            run.sequence.token_ids.extend(run.token_ids)
        return candidates

    def whole_logits(self) -> NDArray[np.float32]:
        """[N, V] of the last step's wanted rows."""
        return self._executor.whole_logits()

    def truncate(self, sequence: CachedSequence, n_tokens: int) -> None:
        """Forgets all but the first `n_tokens` tokens and frees the pages that held only the others."""
        del sequence.token_ids[n_tokens:]
        n_pages = -(-n_tokens // self._executor.cache.page_size)
        self._free.extend(reversed(sequence.pages[n_pages:]))
        del sequence.pages[n_pages:]
