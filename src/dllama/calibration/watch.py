"""A device that adds up the squares of what matrices take."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dllama.dtypes import BLOCK
from dllama.kernels import Cpu, Matrix, Q80Rows


class _Call:
    """A Program that is not recorded: its operations are called one by one."""

    def __init__(self, call: Callable[..., object], args: tuple[object, ...]) -> None:
        self._call, self._args = call, args

    def run(self) -> None:
        self._call(*self._args)


class WatchingCpu(Cpu):
    """The cpu, whose products add up the squares of their inputs before they are computed.

    Only matrices whose inputs are quantised are watched: others cannot be quantised themselves.
    """

    def __init__(self, n_threads: int) -> None:
        super().__init__(n_threads)
        self._sums: dict[int, NDArray[np.float64]] = {}
        self._n_rows: dict[int, int] = {}

    def mean_squares(self, matrix: Matrix) -> NDArray[np.float32] | None:
        """[n_in], of all rows that the matrix has taken so far; None when there are none."""
        if id(matrix) not in self._sums:
            return None
        mean: NDArray[np.float32] = (self._sums[id(matrix)] / self._n_rows[id(matrix)]).astype(np.float32)
        return mean

    def record(self, call: Callable[..., object], *args: object) -> Any:
        return _Call(call, args)

    def matmul(self, out: Any, matrix: Any, x: Any, n_rows: int, *more: Any, **named: Any) -> None:
        self._watch(matrix, x, n_rows)
        super().matmul(out, matrix, x, n_rows, *more, **named)

    def gated_matmul(self, out: Any, matrix: Any, x: Any, scratch: Any, n_rows: int, activation: str) -> None:
        self._watch(matrix, x, n_rows)
        super().gated_matmul(out, matrix, x, scratch, n_rows, activation)

    def _watch(self, matrix: Matrix, x: Any, n_rows: int) -> None:
        if not isinstance(x, Q80Rows):
            return
        quants = x.quants[:n_rows].reshape(n_rows, -1, BLOCK).astype(np.float32)
        squares = np.square(quants * x.scales[:n_rows, :, None]).sum(axis=0, dtype=np.float64).reshape(-1)
        self._sums[id(matrix)] = self._sums.get(id(matrix), 0.0) + squares
        self._n_rows[id(matrix)] = self._n_rows.get(id(matrix), 0) + n_rows
