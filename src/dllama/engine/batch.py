"""Runs of tokens of several texts become one ragged batch."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from dllama.model import LogitRows, StepBatch


@dataclasses.dataclass(frozen=True)
class TokenRun:
    """Tokens of one text from position `start` on; the logits of the last `n_wanted` of them are wanted.

    `pages` hold the text at least as far as these tokens go.
    """

    token_ids: Sequence[int]
    start: int
    pages: Sequence[int]
    n_wanted: int


Want: TypeAlias = Callable[[NDArray[np.int32]], LogitRows]
"""What is wanted of these rows [N] of the batch."""


def ragged_batch(runs: Sequence[TokenRun], want: Want = LogitRows.greedy) -> StepBatch:
    """One step of all runs together, in their order."""
    lengths = [len(run.token_ids) for run in runs]
    table = np.zeros((len(runs), max(len(run.pages) for run in runs)), np.int32)
    positions: list[int] = []
    rows: list[int] = []
    for index, (run, end) in enumerate(zip(runs, itertools.accumulate(lengths), strict=True)):
        table[index, : len(run.pages)] = run.pages
        positions.extend(range(run.start, run.start + lengths[index]))
        rows.extend(range(end - run.n_wanted, end))
    return StepBatch(
        token_ids=np.asarray([token_id for run in runs for token_id in run.token_ids], np.int32),
        positions=np.asarray(positions, np.int32),
        sequence=np.repeat(np.arange(len(runs), dtype=np.int32), lengths),
        page_table=table,
        wanted=want(np.asarray(rows, np.int32)),
    )
