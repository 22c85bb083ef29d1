"""What the layers of one rank compute in: operations, and buffers that all layers share."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import TypeAlias

import numpy as np

from dllama.dtypes import ElementType
from dllama.kernels import BoundArray, Compute, PackedMatrix, Q80Rows
from dllama.sharding import RankSpans

Rows: TypeAlias = Q80Rows | BoundArray
"""The input of a matrix product: quantised for blocked types of weights, float32 for others."""

TypeOf: TypeAlias = Callable[[str], ElementType]
"""The element type of a layer's matrix, by the tensor's name."""


@dataclasses.dataclass(frozen=True)
class Buffer:
    """Rows of `n` numbers, float32 or quantised. Layers that ask for the same one share it."""

    name: str
    n: int
    quantised: bool = False

    @property
    def row_bytes(self) -> int:
        return self.n + -(-self.n // 32) * 8 if self.quantised else 4 * self.n


@dataclasses.dataclass(frozen=True)
class RowPlaces:
    """Where rows stand in their sequences (see StepBatch), as operations take them."""

    positions: BoundArray
    sequence: BoundArray
    page_table: BoundArray


@dataclasses.dataclass(frozen=True)
class StackedMatrices:
    """Matrices that share an input: their outputs stand side by side in one buffer. Those of one element type are one
    packed matrix; `first_columns` says where each begins."""

    matrices: tuple[PackedMatrix, ...]
    first_columns: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class LayerWeights:
    """What one rank holds of a layer, by the names of groups of tensors: `qkv` are q, k and v. Vectors are float32."""

    matrices: dict[str, StackedMatrices]
    experts: dict[str, list[StackedMatrices]]
    """Of stacks: one entry for each matrix of the stack."""
    vectors: dict[str, BoundArray]
    type_of: TypeOf


class Workspace:
    """`rank` and `spans` are this rank's, `dim` and `eps` the model's."""

    def __init__(
        self,
        compute: Compute,
        *,
        rank: int,
        spans: RankSpans,
        dim: int,
        eps: float,
        buffers: Iterable[Buffer],
        max_rows: int,
    ) -> None:
        self.compute, self.rank, self.spans, self.dim, self.eps = compute, rank, spans, dim, eps
        self._buffers: dict[Buffer, Rows] = {}
        for buffer in buffers:
            if buffer not in self._buffers:
                self._buffers[buffer] = _rows(buffer, max_rows)

    def __getitem__(self, buffer: Buffer) -> Rows:
        return self._buffers[buffer]

    def floats(self, buffer: Buffer) -> BoundArray:
        rows = self._buffers[buffer]
        assert isinstance(rows, BoundArray), buffer
        return rows

    def normed(self, dtype: ElementType) -> Rows:
        """The input of the layer's products after its norm [T, D], as matrices of that type take it."""
        return self._buffers[normed_buffer(self.dim, dtype)]

    def product(
        self, out: BoundArray, weights: StackedMatrices, x: Callable[[ElementType], Rows], n_rows: int
    ) -> None:
        """out [T, n] := the products of `x` with all of the matrices, side by side."""
        for matrix, column in zip(weights.matrices, weights.first_columns, strict=True):
            self.compute.matmul(out, matrix, x(matrix.dtype), n_rows, first_column=column)

    def close(self) -> None:
        """Gives the memory back."""
        self._buffers.clear()


def normed_buffer(dim: int, dtype: ElementType) -> Buffer:
    return Buffer("normed", dim, dtype.is_blocked)


def _rows(buffer: Buffer, max_rows: int) -> Rows:
    if buffer.quantised:
        return Q80Rows(max_rows, buffer.n)
    return BoundArray(np.empty((max_rows, buffer.n), np.float32))
