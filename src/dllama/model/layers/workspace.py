"""What the layers of one rank compute in: operations, and buffers that all layers share."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import TypeAlias

from dllama.dtypes import ElementType
from dllama.kernels import Buffer, Device, Matrix, Rows
from dllama.sharding import RankSpans

TypeOf: TypeAlias = Callable[[str], ElementType]
"""The element type of a layer's matrix, by the tensor's name."""


@dataclasses.dataclass(frozen=True)
class BufferShape:
    """Rows of `n` numbers: float32, or as weights of blocked types take them. Layers that ask for the same share it."""

    name: str
    n: int
    quantised: bool = False

    @property
    def row_bytes(self) -> int:
        return self.n + -(-self.n // 32) * 8 if self.quantised else 4 * self.n


@dataclasses.dataclass(frozen=True)
class RowPlaces:
    """Where rows stand in their sequences (see StepBatch), as operations take them."""

    positions: Buffer
    sequence: Buffer
    page_table: Buffer


@dataclasses.dataclass(frozen=True)
class StackedMatrices:
    """Matrices that share an input: their outputs stand side by side in one buffer. Those of one element type are one
    packed matrix; `first_columns` says where each begins."""

    matrices: tuple[Matrix, ...]
    first_columns: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class LayerWeights:
    """What one rank holds of a layer, by the names of groups of tensors: `qkv` are q, k and v. Vectors are float32."""

    matrices: dict[str, StackedMatrices]
    experts: dict[str, list[StackedMatrices]]
    """Of stacks: one entry for each matrix of the stack."""
    vectors: dict[str, Buffer]
    type_of: TypeOf


class Workspace:
    """`rank` and `spans` are this rank's, `dim` and `eps` the model's."""

    def __init__(
        self,
        device: Device,
        *,
        rank: int,
        spans: RankSpans,
        dim: int,
        eps: float,
        buffers: Iterable[BufferShape],
        max_rows: int,
    ) -> None:
        self.device, self.rank, self.spans, self.dim, self.eps = device, rank, spans, dim, eps
        self._floats: dict[BufferShape, Buffer] = {}
        self._quantised: dict[BufferShape, Rows] = {}
        for buffer in dict.fromkeys(buffers):
            if buffer.quantised:
                self._quantised[buffer] = device.quantised_rows(max_rows, buffer.n)
            else:
                self._floats[buffer] = device.buffer(max_rows, buffer.n)

    def __getitem__(self, buffer: BufferShape) -> Rows:
        return self._quantised[buffer] if buffer.quantised else self._floats[buffer]

    def floats(self, buffer: BufferShape) -> Buffer:
        return self._floats[buffer]

    def normed(self, dtype: ElementType) -> Rows:
        """The input of the layer's products after its norm [T, D], as matrices of that type take it."""
        return self[normed_buffer(self.dim, dtype)]

    def product(
        self, out: Buffer, weights: StackedMatrices, x: Callable[[ElementType], Rows], n_rows: int
    ) -> None:
        """out [T, n] := the products of `x` with all of the matrices, side by side."""
        for matrix, column in zip(weights.matrices, weights.first_columns, strict=True):
            self.device.matmul(out, matrix, x(matrix.dtype), n_rows, first_column=column)

    def close(self) -> None:
        """Gives the memory back."""
        self._floats.clear()
        self._quantised.clear()


def normed_buffer(dim: int, dtype: ElementType) -> BufferShape:
    return BufferShape("normed", dim, dtype.is_blocked)
