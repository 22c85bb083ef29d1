"""One step of the model: a ragged batch of rows."""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from dllama.model.logits import LogitRows


@dataclasses.dataclass(frozen=True, kw_only=True)
class StepBatch:
    """Rows of any number of sequences, prefill and decode mixed.

    token_ids    [T] int32
    positions    [T] int32, position of each row in its sequence
    sequence     [T] int32, index into page_table; rows of one sequence are adjacent, positions ascending
    page_table   [S, max_pages] int32, page of each run of positions; entries beyond a sequence's end are unused
    wanted       the rows whose logits are wanted, and what is wanted of them
    """

    token_ids: NDArray[np.int32]
    positions: NDArray[np.int32]
    sequence: NDArray[np.int32]
    page_table: NDArray[np.int32]
    wanted: LogitRows

    @property
    def n_rows(self) -> int:
        return len(self.positions)
