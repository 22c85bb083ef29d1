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
    sequence     [T] int32, index into page tables; rows of one sequence are adjacent, positions ascending
    page_tables  for each page group [S, P] int32: the page of each run of positions, from PageGroup.first_page of the
                 sequence's first row on; entries beyond a sequence's end are unused
    wanted       the rows whose logits are wanted, and what is wanted of them
    """

    token_ids: NDArray[np.int32]
    positions: NDArray[np.int32]
    sequence: NDArray[np.int32]
    page_tables: tuple[NDArray[np.int32], ...]
    wanted: LogitRows

    @property
    def n_rows(self) -> int:
        return len(self.positions)

    @property
    def n_sequences(self) -> int:
        return len(self.page_tables[0])

    def runs(self) -> tuple[NDArray[np.integer], NDArray[np.int32]]:
        """The number of rows of each sequence and the position of its first one, both [S]."""
        if self.n_rows == self.n_sequences:
            return np.ones(self.n_rows, np.int32), self.positions
        first_rows = np.flatnonzero(np.diff(self.sequence, prepend=-1))
        return np.diff(first_rows, append=self.n_rows), self.positions[first_rows]
