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
    """The tokens whose keys and values are in the cache, and by page group the pages that hold them, from that on which
    the window reaches back to."""

    token_ids: list[int] = dataclasses.field(default_factory=list)
    pages: list[list[int]] = dataclasses.field(default_factory=list)


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
    """Appends tokens to sequences. A page that a window has left is taken again at once, and pages lowest first."""

    def __init__(self, executor: Executor) -> None:
        self._executor, self._cache = executor, executor.cache
        self._free = [list(range(group.n_pages)) for group in self._cache.groups]

    def step(self, runs: Sequence[Run]) -> Candidates:
        """All runs in one batch."""
        chunks = []
        for run in runs:
            start = len(run.sequence.token_ids)
            self._make_room(run.sequence, start + len(run.token_ids))
            chunks.append(TokenChunk(run.token_ids, start, run.sequence.pages, run.n_wanted))
        candidates = self._executor.step(ragged_batch(chunks))
        for run in runs:
            self._give_up(run.sequence, len(run.sequence.token_ids) + len(run.token_ids))
            run.sequence.token_ids.extend(run.token_ids)
        return candidates

    def whole_logits(self) -> NDArray[np.float32]:
        """[N, V] of the last step's wanted rows."""
        return self._executor.whole_logits()

    def truncate(self, sequence: CachedSequence, n_tokens: int) -> None:
        """Forgets all but the first `n_tokens` tokens and frees the pages that held only the others. With a window it
        must be none of them, or so many that no page has been given up since."""
        firsts = self._first_pages(sequence)
        del sequence.token_ids[n_tokens:]
        n_pages = -(-n_tokens // self._cache.page_size)
        assert not n_tokens or firsts == self._first_pages(sequence)
        for free, pages, first in zip(self._free, sequence.pages, firsts, strict=True):
            n_kept = max(0, n_pages - first) if n_tokens else 0
            free.extend(pages[n_kept:])
            free.sort()
            del pages[n_kept:]

    def _make_room(self, sequence: CachedSequence, n_tokens: int) -> None:
        if not sequence.pages:
            sequence.pages = [[] for _ in self._cache.groups]
        stop = -(-n_tokens // self._cache.page_size)
        for free, pages, first in zip(self._free, sequence.pages, self._first_pages(sequence), strict=True):
            while first + len(pages) < stop:
                pages.append(free.pop(0))

    def _give_up(self, sequence: CachedSequence, n_tokens: int) -> None:
        """What the windows have left when `n_tokens` are computed."""
        firsts, now = self._first_pages(sequence), self._first_pages_at(n_tokens)
        for free, pages, n in zip(self._free, sequence.pages, np.subtract(now, firsts), strict=True):
            free.extend(pages[:n])
            free.sort()
            del pages[:n]

    def _first_pages(self, sequence: CachedSequence) -> list[int]:
        return self._first_pages_at(len(sequence.token_ids))

    def _first_pages_at(self, position: int) -> list[int]:
        return [group.first_page(position, self._cache.page_size) for group in self._cache.groups]
