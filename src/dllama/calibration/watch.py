"""A device that adds up the squares of what matrices take."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dllama.dtypes import BLOCK
from dllama.kernels import Cpu, Matrix, MatrixStack, PackedStack, Q80Rows, RoutedRows
from dllama.kernels.experts_oracle import by_slot

_PRIOR_ROWS = 32
"""As many rows of the average expert count for each expert beside its own: few rows say little of what it will get."""


class _Call:
    """A Program that is not recorded: its operations are called one by one."""

    def __init__(self, call: Callable[..., object], args: tuple[object, ...]) -> None:
        self._call, self._args = call, args

    def run(self) -> None:
        self._call(*self._args)


class _Squares:
    """Sums of squares [n_matrices, n_in], and how many rows each matrix has taken."""

    def __init__(self, n_matrices: int, n_in: int) -> None:
        self._sums = np.zeros((n_matrices, n_in))
        self._n_rows = np.zeros(n_matrices)

    def add(self, rows: Q80Rows, index: NDArray[np.int64], first: NDArray[np.int64]) -> None:
        """The rows `index` of `rows`; those of each matrix follow each other, and begin at `first` of the index."""
        stop = np.append(first[1:], len(index))
        for number in np.flatnonzero(stop > first):
            mine = index[first[number] : stop[number]]
            quants = rows.quants[mine].reshape(len(mine), -1, BLOCK).astype(np.float32)
            squares = np.square(quants * rows.scales[mine][:, :, None])
            self._sums[number] += squares.sum(axis=0, dtype=np.float64).reshape(-1)
            self._n_rows[number] += len(mine)

    def means(self) -> NDArray[np.float32]:
        """Of each matrix; of several, with some rows of the average one among its own."""
        prior = _PRIOR_ROWS if len(self._sums) > 1 else 0
        average = self._sums.sum(axis=0) / self._n_rows.sum()
        means: NDArray[np.float64] = (self._sums + prior * average) / (self._n_rows + prior)[:, None]
        return means.astype(np.float32)


class WatchingCpu(Cpu):
    """The cpu, whose products add up the squares of their inputs before they are computed.

    Only matrices whose inputs are quantised are watched: others cannot be quantised themselves.
    """

    def __init__(self, n_threads: int) -> None:
        super().__init__(n_threads)
        self._squares: dict[int, _Squares] = {}

    def mean_squares(self, matrix: Matrix | MatrixStack) -> NDArray[np.float32] | None:
        """[n_in], of all rows that the matrix has taken so far, or [n_experts, n_in] of a stack; None when there are
        none."""
        squares = self._squares.get(id(matrix))
        if squares is None:
            return None
        means = squares.means()
        return means if isinstance(matrix, PackedStack) else means[0]

    def record(self, call: Callable[..., object], *args: object) -> Any:
        return _Call(call, args)

    def matmul(self, out: Any, matrix: Any, x: Any, n_rows: int, *more: Any, **named: Any) -> None:
        self._watch(matrix, x, n_rows)
        super().matmul(out, matrix, x, n_rows, *more, **named)

    def gated_matmul(
        self, out: Any, matrix: Any, x: Any, scratch: Any, n_rows: int, *more: Any, **named: Any
    ) -> None:
        self._watch(matrix, x, n_rows)
        super().gated_matmul(out, matrix, x, scratch, n_rows, *more, **named)

    def experts_gated(
        self, out: Any, stack: Any, x: Any, routing: Any, n_rows: int, *more: Any, **named: Any
    ) -> None:
        row_of_slot, _ = by_slot(routing.ids[:n_rows])
        self._watch_experts(stack, x, routing, n_rows, row_of_slot.astype(np.int64))
        super().experts_gated(out, stack, x, routing, n_rows, *more, **named)

    def experts_down(
        self, out: Any, stack: Any, x: Any, routing: Any, n_rows: int, *more: Any, **named: Any
    ) -> None:
        self._watch_experts(stack, x, routing, n_rows, np.arange(n_rows * routing.top_k))
        super().experts_down(out, stack, x, routing, n_rows, *more, **named)

    def _watch(self, matrix: Matrix, x: Any, n_rows: int) -> None:
        if isinstance(x, Q80Rows):
            squares = self._squares.setdefault(id(matrix), _Squares(1, matrix.n_in))
            squares.add(x, np.arange(n_rows), np.zeros(1, np.int64))

    def _watch_experts(
        self, stack: MatrixStack, x: Any, routing: RoutedRows, n_rows: int, row_of_slot: NDArray[np.int64]
    ) -> None:
        """`row_of_slot`: which row of `x` each slot is; slots are ordered by expert."""
        if isinstance(x, Q80Rows):
            expert_of_slot = np.sort(routing.ids[:n_rows].reshape(-1))
            first = np.searchsorted(expert_of_slot, np.arange(routing.n_experts))
            squares = self._squares.setdefault(id(stack), _Squares(routing.n_experts, stack.n_in))
            squares.add(x, row_of_slot, first)
