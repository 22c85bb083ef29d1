"""Chunks of several texts become one ragged batch."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from dllama.model import LogitRows, StepBatch


@dataclasses.dataclass(frozen=True)
class TokenChunk:
    """Tokens of one text from position `start` on; the logits of the last `n_wanted` of them are wanted.

    `pages` of each page group hold the text from PageGroup.first_page of `start` on, at least as far as these tokens
    go.
    """

    token_ids: Sequence[int]
    start: int
    pages: Sequence[Sequence[int]]
    n_wanted: int


Want: TypeAlias = Callable[[NDArray[np.int32]], LogitRows]
"""What is wanted of these rows [N] of the batch."""


def ragged_batch(chunks: Sequence[TokenChunk], want: Want = LogitRows.greedy) -> StepBatch:
    """One step of all chunks together, in their order."""
    lengths = [len(chunk.token_ids) for chunk in chunks]
    positions: list[int] = []
    rows: list[int] = []
    for chunk, n, end in zip(chunks, lengths, itertools.accumulate(lengths), strict=True):
        positions.extend(range(chunk.start, chunk.start + n))
        rows.extend(range(end - chunk.n_wanted, end))
    return StepBatch(
        token_ids=np.asarray([token_id for chunk in chunks for token_id in chunk.token_ids], np.int32),
        positions=np.asarray(positions, np.int32),
        sequence=np.repeat(np.arange(len(chunks), dtype=np.int32), lengths),
        page_tables=tuple(map(_page_table, zip(*(chunk.pages for chunk in chunks), strict=True))),
        wanted=want(np.asarray(rows, np.int32)),
    )


def _page_table(pages: Sequence[Sequence[int]]) -> NDArray[np.int32]:
    """[S, P] of one group, from the pages of each sequence."""
    table = np.zeros((len(pages), max(map(len, pages))), np.int32)
    for row, of_sequence in zip(table, pages, strict=True):
        row[: len(of_sequence)] = of_sequence
    return table
