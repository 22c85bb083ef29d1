"""Mixtures of experts on the reference device."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from dllama.dtypes import ElementType
from dllama.kernels import experts_oracle, oracle, router_oracle
from dllama.kernels.device import MatrixStack, Routes
from dllama.kernels.reference_matrix import ReferenceMatrix
from dllama.kernels.router_oracle import Rule

Float32 = NDArray[np.float32]
Bytes = NDArray[np.uint8]


class ReferenceStack:
    """See MatrixStack."""

    def __init__(self, dtype: ElementType, n_matrices: int, n_out: int, n_in: int, first_in: int) -> None:
        self.dtype, self.n_out, self.n_in = dtype, n_out, n_in
        self._matrices = [ReferenceMatrix(dtype, n_out, n_in, first_in) for _ in range(n_matrices)]

    @property
    def n_matrices(self) -> int:
        return len(self._matrices)

    @property
    def nbytes(self) -> int:
        return sum(matrix.nbytes for matrix in self._matrices)

    def pack(self, index: int, first_row: int, rows: Bytes) -> bool:
        if not 0 <= index < self.n_matrices:
            raise ValueError("index is outside the stack")
        return self._matrices[index].pack(first_row, rows)

    def values(self, index: int) -> Float32:
        return self._matrices[index].values

    @staticmethod
    def of(stack: MatrixStack, n_matrices: int) -> ReferenceStack:
        if not isinstance(stack, ReferenceStack):
            raise TypeError("stack must be one of the reference device")
        if stack.n_matrices != n_matrices:
            raise ValueError(f"stack must have {n_matrices} matrices, not {stack.n_matrices}")
        return stack


class ReferenceRoutes:
    """See Routes."""

    def __init__(self, max_rows: int, n_experts: int, top_k: int) -> None:
        if not 1 <= top_k <= n_experts:
            raise ValueError("top_k must be between 1 and n_experts")
        self.max_rows, self.n_experts, self.top_k = max_rows, n_experts, top_k
        self.n_rows = 0  # those that were routed last
        self.ids = np.zeros((max_rows, top_k), np.int32)
        self.weights = np.zeros((max_rows, top_k), np.float32)

    @staticmethod
    def of(routing: Routes, n_rows: int) -> ReferenceRoutes:
        if not isinstance(routing, ReferenceRoutes):
            raise TypeError("routing must be one of the reference device")
        if not 0 <= n_rows <= routing.max_rows:
            raise ValueError(f"n_rows {n_rows} is not between 0 and the {routing.max_rows} rows of routing")
        return routing

    def choose(self, x: Float32, norm: Float32, eps: float, weights: Float32, rule: Rule) -> None:
        self.n_rows = len(x)
        routes = router_oracle.route(x, norm, eps, weights, rule)
        self.ids[: len(x)], self.weights[: len(x)] = routes.ids, routes.weights

    def slots(self, n_rows: int) -> Iterator[tuple[int, int, np.float32]]:
        """Row, expert and weight of each slot."""
        if n_rows != self.n_rows:
            raise ValueError(f"routing is of {self.n_rows} rows, not of {n_rows}")
        for row, place in zip(*experts_oracle.by_slot(self.ids[:n_rows]), strict=True):
            yield int(row), int(self.ids[row, place]), self.weights[row, place]


def gate_slots(
    out: Float32,
    stack: ReferenceStack,
    x: Float32,
    routes: ReferenceRoutes,
    activation: str,
    biases: tuple[Float32, Float32] | None,
) -> None:
    for slot, (row, expert, _) in enumerate(routes.slots(len(x))):
        products = np.stack([stack.values(2 * expert + part) @ x[row] for part in (0, 1)])
        if biases is not None:
            products += np.stack([bias[expert] for bias in biases])
        out[slot] = oracle.gated(products.reshape(1, -1), activation)[0]


def down_slots(
    out: Float32,
    stack: ReferenceStack,
    x: Float32,
    routes: ReferenceRoutes,
    add: bool,
    bias: Float32 | None,
) -> None:
    if not add:
        out[:] = 0
    for slot, (row, expert, weight) in enumerate(routes.slots(len(out))):
        product = stack.values(expert) @ x[slot]
        out[row] += weight * (product if bias is None else product + bias[expert])
