"""Sequences and steps: rows of several sequences become one ragged batch."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from dllama.engine.executor import Executor
from dllama.engine.pages import PagePool
from dllama.errors import ContextFullError
from dllama.model import StepBatch


class Want(enum.Enum):
    """Of which rows of a run of tokens the logits are wanted."""

    NONE = enum.auto()
    LAST = enum.auto()
    ALL = enum.auto()


@dataclasses.dataclass
class CachedSequence:
    """One text: the tokens whose keys and values are in the cache, and the pages that hold them."""

    token_ids: list[int] = dataclasses.field(default_factory=list)
    pages: list[int] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True)
class Run:
    """Tokens to append to a sequence in this step."""

    sequence: CachedSequence
    token_ids: Sequence[int]
    want: Want = Want.LAST


class Engine:
    """Appends tokens to sequences, one ragged step at a time."""

    def __init__(self, executor: Executor, max_seq_len: int) -> None:
        self._executor = executor
        self._pool = PagePool(executor.cache.n_pages)
        self.max_seq_len = max_seq_len

    def step(self, runs: Sequence[Run]) -> NDArray[np.float32]:
        """Logits [N, V] of the wanted rows, in the order of `runs`; all runs together are one batch.

        Raises ContextFullError, with nothing computed, when a sequence would pass max_seq_len or the pages
        run out.
        """
        for run in runs:
            self._make_room(run.sequence, len(run.token_ids))
        logits = self._executor.step(self._batch(runs))
        for run in runs:
            run.sequence.token_ids.extend(run.token_ids)
        return logits

    def append(
        self, sequence: CachedSequence, token_ids: Sequence[int], want: Want = Want.LAST
    ) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """Appends any number of tokens in as many steps as the executor's buffers need.

        Yields for each step (tokens appended, logits of its wanted rows).
        """
        size = self._executor.max_rows
        if want is Want.ALL:
            size = min(size, self._executor.max_logit_rows)
        if len(sequence.token_ids) + len(token_ids) > self.max_seq_len:
            raise ContextFullError(
                f"{len(sequence.token_ids) + len(token_ids)} tokens do not fit into a context of "
                f"{self.max_seq_len}; shorten the text or raise --max-seq-len"
            )
        for first in range(0, len(token_ids), size):
            part = token_ids[first : first + size]
            is_last = first + size >= len(token_ids)
            part_want = Want.NONE if want is Want.LAST and not is_last else want
            yield len(part), self.step([Run(sequence, part, part_want)])

    def truncate(self, sequence: CachedSequence, n_tokens: int) -> None:
        """Forgets all but the first `n_tokens` tokens and gives back the pages that held only the others."""
        del sequence.token_ids[n_tokens:]
        n_pages = -(-n_tokens // self._executor.cache.page_size)
        self._pool.give_back(sequence.pages[n_pages:])
        del sequence.pages[n_pages:]

    def _make_room(self, sequence: CachedSequence, n_new: int) -> None:
        n_tokens = len(sequence.token_ids) + n_new
        if n_tokens > self.max_seq_len:
            raise ContextFullError(
                f"the context of {self.max_seq_len} tokens is full; raise --max-seq-len for more"
            )
        n_missing = -(-n_tokens // self._executor.cache.page_size) - len(sequence.pages)
        if n_missing > 0:
            sequence.pages.extend(self._pool.take(n_missing))

    def _batch(self, runs: Sequence[Run]) -> StepBatch:
        lengths = [len(run.token_ids) for run in runs]
        table = np.zeros((len(runs), max(len(run.sequence.pages) for run in runs)), np.int32)
        positions: list[int] = []
        logit_rows: list[int] = []
        first = 0
        for index, (run, length) in enumerate(zip(runs, lengths, strict=True)):
            table[index, : len(run.sequence.pages)] = run.sequence.pages
            start = len(run.sequence.token_ids)
            positions.extend(range(start, start + length))
            if run.want is not Want.NONE:
                n_wanted = length if run.want is Want.ALL else 1
                logit_rows.extend(range(first + length - n_wanted, first + length))
            first += length
        return StepBatch(
            token_ids=np.concatenate([np.asarray(run.token_ids, np.int32) for run in runs]),
            positions=np.asarray(positions, np.int32),
            sequence=np.repeat(np.arange(len(runs), dtype=np.int32), lengths),
            page_table=table,
            logit_rows=np.asarray(logit_rows, np.int32),
        )
