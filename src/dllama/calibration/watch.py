"""A Compute that adds up the squares of what matrices take."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dllama.dtypes import BLOCK
from dllama.kernels import Compute, PackedMatrix, Q80Rows


class _Call:
    """A Program that is not recorded: its operations are called one by one."""

    def __init__(self, call: Callable[..., object], args: tuple[object, ...]) -> None:
        self._call, self._args = call, args

    def run(self) -> None:
        self._call(*self._args)


class WatchingCompute:
    """All that `compute` does; products add up the squares of their inputs before they are computed.

    Only matrices whose inputs are quantised are watched: others cannot be quantised themselves.
    """

    def __init__(self, compute: Compute) -> None:
        self._compute = compute
        self._sums: dict[int, NDArray[np.float64]] = {}
        self._n_rows: dict[int, int] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._compute, name)

    def mean_squares(self, matrix: PackedMatrix) -> NDArray[np.float32] | None:
        """[n_in], of all rows that the matrix has taken so far; None when there are none."""
        if id(matrix) not in self._sums:
            return None
        mean: NDArray[np.float32] = (self._sums[id(matrix)] / self._n_rows[id(matrix)]).astype(np.float32)
        return mean

    def record(self, call: Callable[..., object], *args: object) -> _Call:
        return _Call(call, args)

    def matmul(self, out: Any, matrix: PackedMatrix, x: Any, n_rows: int, *more: Any, **named: Any) -> None:
        self._watch(matrix, x, n_rows)
        self._compute.matmul(out, matrix, x, n_rows, *more, **named)

    def gated_matmul(
        self, out: Any, matrix: PackedMatrix, x: Any, scratch: Any, n_rows: int, kind: str
    ) -> None:
        self._watch(matrix, x, n_rows)
        self._compute.gated_matmul(out, matrix, x, scratch, n_rows, kind)

    def _watch(self, matrix: PackedMatrix, x: Any, n_rows: int) -> None:
        if not isinstance(x, Q80Rows):
            return
        quants = x.quants[:n_rows].reshape(n_rows, -1, BLOCK).astype(np.float32)
        squares = np.square(quants * x.scales[:n_rows, :, None]).sum(axis=0, dtype=np.float64).reshape(-1)
        self._sums[id(matrix)] = self._sums.get(id(matrix), 0.0) + squares
        self._n_rows[id(matrix)] = self._n_rows.get(id(matrix), 0) + n_rows
