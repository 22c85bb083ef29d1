"""What files store otherwise than we have it: q, k and v in one matrix, experts in a stack, heads in another order."""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray


@dataclasses.dataclass(frozen=True)
class StoredPart:
    """`rows` of the tensor that files call `pattern` (as Family.other_names), which has `n_rows` in all, those of a
    stack one after another. None: it has as many as ours, which are all of it. `transposed`: they are our columns.
    Else `columns` says which of its columns is each of ours, heads staying whole. `exponent`: it has -e^x of our x.
    """

    pattern: str
    n_rows: int | None = None
    rows: NDArray[np.int64] | None = None
    transposed: bool = False
    columns: NDArray[np.int64] | None = None
    exponent: bool = False

    def name(self, layer: str) -> str:
        return self.pattern.format(layer=layer)


def runs(starts: NDArray[np.int64] | range, length: int) -> NDArray[np.int64]:
    """`length` rows from each of `starts` on."""
    return np.add.outer(np.asarray(starts, np.int64), np.arange(length)).ravel()
