"""Sequences and steps: rows of several sequences become one ragged batch."""

from __future__ import annotations

import dataclasses
import enum
import itertools
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from dllama.engine.executor import Executor
from dllama.engine.pages import PagePool
from dllama.errors import ContextFullError
from dllama.model import Candidates, LogitRows, StepBatch


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
    """Tokens to append to a sequence in this step, and what is wanted of their logits (see LogitRows): `targets` are
    those of the wanted rows."""

    sequence: CachedSequence
    token_ids: Sequence[int]
    want: Want = Want.LAST
    n_candidates: int = 1
    temperature: float = 0.0
    targets: Sequence[int] | None = None

    @property
    def n_wanted(self) -> int:
        return {Want.NONE: 0, Want.LAST: 1, Want.ALL: len(self.token_ids)}[self.want]


class Engine:
    """Appends tokens to sequences, one ragged step at a time."""

    def __init__(self, executor: Executor, max_seq_len: int) -> None:
        self._executor = executor
        self._pool = PagePool(executor.cache.n_pages)
        self.max_seq_len = max_seq_len

    def step(self, runs: Sequence[Run]) -> Candidates:
        """Those of the wanted rows, in the order of `runs`; all runs together are one batch.

        Raises ContextFullError, with nothing computed, when a sequence would pass max_seq_len or the pages
        run out.
        """
        for run in runs:
            self._make_room(run.sequence, len(run.token_ids))
        candidates = self._executor.step(self._batch(runs))
        for run in runs:
            run.sequence.token_ids.extend(run.token_ids)
        return candidates

    def whole_logits(self) -> NDArray[np.float32]:
        """[N, V] of the last step's wanted rows: see Executor."""
        return self._executor.whole_logits()

    def append(self, run: Run) -> Iterator[tuple[int, Candidates]]:
        """Appends any number of tokens in as many steps as the executor's buffers need.

        Yields for each step (tokens appended, candidates of its wanted rows).
        """
        sequence, token_ids = run.sequence, run.token_ids
        size = self._executor.max_rows
        if run.want is Want.ALL:
            size = min(size, self._executor.max_logit_rows)
        if len(sequence.token_ids) + len(token_ids) > self.max_seq_len:
            raise ContextFullError(
                f"{len(sequence.token_ids) + len(token_ids)} tokens do not fit into a context of "
                f"{self.max_seq_len}; shorten the text or raise --max-seq-len"
            )
        for first in range(0, len(token_ids), size):
            part = dataclasses.replace(run, token_ids=token_ids[first : first + size])
            if run.want is Want.LAST and first + size < len(token_ids):
                part = dataclasses.replace(part, want=Want.NONE, targets=None)
            elif run.want is Want.ALL and run.targets is not None:
                part = dataclasses.replace(part, targets=run.targets[first : first + size])
            yield len(part.token_ids), self.step([part])

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
        rows: list[int] = []
        for index, (run, end) in enumerate(zip(runs, itertools.accumulate(lengths), strict=True)):
            table[index, : len(run.sequence.pages)] = run.sequence.pages
            start = len(run.sequence.token_ids)
            positions.extend(range(start, start + len(run.token_ids)))
            rows.extend(range(end - run.n_wanted, end))
        return StepBatch(
            token_ids=np.concatenate([np.asarray(run.token_ids, np.int32) for run in runs]),
            positions=np.asarray(positions, np.int32),
            sequence=np.repeat(np.arange(len(runs), dtype=np.int32), lengths),
            page_table=table,
            wanted=_wanted(runs, rows, self._executor.config.vocab_size),
        )


def _wanted(runs: Sequence[Run], rows: Sequence[int], vocab_size: int) -> LogitRows:
    targets: list[int] = []
    for run in runs:
        targets.extend([-1] * run.n_wanted if run.targets is None else run.targets)
    return LogitRows(
        rows=np.asarray(rows, np.int32),
        n_candidates=min(vocab_size, max((run.n_candidates for run in runs if run.n_wanted), default=1)),
        temperature=np.repeat(
            np.asarray([run.temperature for run in runs], np.float32), [run.n_wanted for run in runs]
        ),
        targets=np.asarray(targets, np.int32),
    )
