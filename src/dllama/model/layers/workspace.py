"""What the layers of one rank compute in: operations, and buffers that all layers share."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, Protocol, TypeAlias, TypeVar

from dllama.dtypes import ElementType
from dllama.kernels import Buffer, Device, Matrix, MatrixStack, Routes, Rows
from dllama.sharding import RankSpans

S = TypeVar("S")
S_co = TypeVar("S_co", covariant=True)

TypeOf: TypeAlias = Callable[[str], ElementType]
"""The element type of a layer's matrix, by the tensor's name."""


class CacheRows(NamedTuple):
    """What a layer keeps of each position: rows of so many heads, of so many numbers each; keys and values are two of
    them, `n_kept`."""

    n_heads: int
    width: int
    n_kept: int = 2


@dataclasses.dataclass(frozen=True)
class BufferShape:
    """Rows of `n` numbers: float32, or as weights of blocked types take them; `per_row` of them for each row of a step.
    Layers that ask for the same share it."""

    name: str
    n: int
    quantised: bool = False
    per_row: int = 1

    @property
    def row_bytes(self) -> int:
        """For each row of a step."""
        return self.per_row * (self.n + -(-self.n // 32) * 8 if self.quantised else 4 * self.n)


@dataclasses.dataclass(frozen=True)
class RoutesShape:
    """Where a router says which experts each row goes to."""

    n_experts: int
    top_k: int

    @property
    def row_bytes(self) -> int:
        """A logit of each expert; number and weight of the chosen ones, by row and by expert."""
        return 4 * (self.n_experts + 4 * self.top_k)


AnyShape: TypeAlias = BufferShape | RoutesShape


@dataclasses.dataclass(frozen=True)
class RowPlaces:
    """Where rows stand in their sequences (see StepBatch), as operations take them."""

    positions: Buffer
    sequence: Buffer
    page_table: Buffer
    page_size: int


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
    stacks: dict[str, MatrixStack]
    """Of stacks of one group the matrices of the same number stand together: gate 0, up 0, gate 1, up 1."""
    tables: dict[str, Buffer]
    """Float32 matrices as they are."""
    vectors: dict[str, Buffer]
    type_of: TypeOf


class Part(Protocol[S_co]):
    """A mixer or a feed-forward."""

    def buffers(self, dim: int, spans: RankSpans, type_of: TypeOf) -> S_co:
        """What a rank computes it in."""
        ...


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
        buffers: Iterable[AnyShape],
        max_rows: int,
    ) -> None:
        self.device, self.rank, self.spans, self.dim, self.eps = device, rank, spans, dim, eps
        self._floats: dict[BufferShape, Buffer] = {}
        self._quantised: dict[BufferShape, Rows] = {}
        self._routes: dict[RoutesShape, Routes] = {}
        self._shapes: dict[tuple[int, int], Any] = {}
        self._normed: dict[ElementType, Rows] = {}
        for buffer in dict.fromkeys(buffers):
            if isinstance(buffer, RoutesShape):
                self._routes[buffer] = device.routes(max_rows, buffer.n_experts, buffer.top_k)
            elif buffer.quantised:
                self._quantised[buffer] = device.quantised_rows(max_rows * buffer.per_row, buffer.n)
            else:
                self._floats[buffer] = device.buffer(max_rows * buffer.per_row, buffer.n)

    def __getitem__(self, buffer: BufferShape) -> Rows:
        return self._quantised[buffer] if buffer.quantised else self._floats[buffer]

    def floats(self, buffer: BufferShape) -> Buffer:
        return self._floats[buffer]

    def shapes(self, part: Part[S], layer: LayerWeights) -> S:
        """What `part` of that layer computes in: worked out once, and not for each number of rows that is recorded."""
        key = id(part), id(layer)
        if key not in self._shapes:
            self._shapes[key] = part.buffers(self.dim, self.spans, layer.type_of)
        found: S = self._shapes[key]
        return found

    def routes(self, shape: RoutesShape) -> Routes:
        return self._routes[shape]

    def normed(self, dtype: ElementType) -> Rows:
        """The input of the layer's products after its norm [T, D], as matrices of that type take it."""
        if dtype not in self._normed:
            self._normed[dtype] = self[normed_buffer(self.dim, dtype)]
        return self._normed[dtype]

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
        self._routes.clear()
        self._normed.clear()
        self._shapes.clear()


def normed_buffer(dim: int, dtype: ElementType) -> BufferShape:
    return BufferShape("normed", dim, dtype.is_blocked)
