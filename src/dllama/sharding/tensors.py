"""A tensor: its name, shape and element type, how it is cut over ranks, and which packed matrix it is part of."""

from __future__ import annotations

import dataclasses
import enum
import math

from dllama.dtypes import ElementType, cut_row_bytes, row_bytes
from dllama.sharding.spans import RankSpans, Span


class Along(enum.Enum):
    """What of a matrix is divided: rows of what produces a span, columns of what consumes it."""

    ROWS = "rows"
    COLS = "columns"


@dataclasses.dataclass(frozen=True)
class Cut:
    """How a tensor follows what is divided among ranks.

    Each unit of `axis` has `width` rows (or columns), and `shared_by` neighbouring units share one run of these: keys
    of a head that several query heads use. A rank whose span ends within such a group holds its run too.
    """

    axis: str
    along: Along
    width: int = 1
    shared_by: int = 1

    def of(self, span: Span) -> Span:
        """The rows or columns of a rank that has `span` of the axis."""
        return Span(span.start // self.shared_by * self.width, -(-span.stop // self.shared_by) * self.width)


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A vector [n], a matrix [n_rows, n_cols] that maps n_cols inputs to n_rows outputs, or a stack of such matrices
    [n_stacked, n_rows, n_cols], each of which is cut alike.

    `cut` None: every rank holds all of it. A vector that is cut has no rows: it is cut along its columns.
    `group` names the packed matrix, or vector, that it is part of, with those that share its input and its type; by
    itself it is its own. `is_table`: a matrix whose float32 rows are used as they are.
    `matrix_rows`: so many rows are a matrix that is packed by itself; 0: all of them.
    `n_chosen`: through how many matrices of a stack each row of a step goes.
    """

    name: str
    shape: tuple[int, ...]
    dtype: ElementType
    cut: Cut | None = None
    group: str = ""
    is_table: bool = False
    n_chosen: int = 1
    matrix_rows: int = 0

    def named(self, name: str) -> Tensor:
        """The same under another name. (dataclasses.replace takes four times as long, and there may be 40 000.)"""
        return Tensor(
            name,
            self.shape,
            self.dtype,
            self.cut,
            self.group,
            self.is_table,
            self.n_chosen,
            self.matrix_rows,
        )

    @property
    def is_packed(self) -> bool:
        """Whether it is part of a packed matrix, as the inputs of products want it."""
        return not self.is_vector and not self.is_table

    @property
    def is_vector(self) -> bool:
        return len(self.shape) == 1

    @property
    def n_stacked(self) -> int:
        return self.shape[0] if len(self.shape) == 3 else 1

    @property
    def n_rows(self) -> int:
        """Of each matrix; a vector has one row."""
        return 1 if self.is_vector else self.shape[-2]

    @property
    def n_cols(self) -> int:
        return self.shape[-1]

    @property
    def stacked_rows(self) -> int:
        """Those of all matrices of a stack, one after another."""
        return self.n_stacked * self.n_rows

    @property
    def row_bytes(self) -> int:
        return row_bytes(self.dtype, self.n_cols)

    @property
    def n_elements(self) -> int:
        return math.prod(self.shape)

    @property
    def n_bytes(self) -> int:
        return self.stacked_rows * self.row_bytes

    @property
    def elements_of_row(self) -> int:
        """Those that each row of a step is multiplied with."""
        return self.n_elements // self.n_stacked * self.n_chosen

    def part_read(self, n_rows: int) -> float:
        """The part of it that a step of so many rows reads, where they are spread evenly over a stack."""
        return 1 - (1 - self.n_chosen / self.n_stacked) ** n_rows

    @property
    def matrix_bytes(self) -> int:
        """Of each matrix of a stack."""
        return self.n_rows * self.row_bytes

    @property
    def fits_blocks(self) -> bool:
        """False when rows of a blocked type are not whole blocks; row_bytes and n_bytes assert it."""
        return self.n_cols % self.dtype.block == 0


@dataclasses.dataclass(frozen=True)
class Shard:
    """Rows and columns of `tensor` that one rank holds; of a stack, those of each of its matrices."""

    tensor: Tensor
    rows: Span
    cols: Span

    @property
    def name(self) -> str:
        return self.tensor.name

    @property
    def row_bytes(self) -> int:
        return cut_row_bytes(self.tensor.dtype, self.cols.start, self.cols.stop)

    @property
    def n_rows(self) -> int:
        """Of all matrices of a stack."""
        return self.tensor.n_stacked * len(self.rows)

    @property
    def n_elements(self) -> int:
        return self.n_rows * len(self.cols)

    @property
    def n_bytes(self) -> int:
        return self.n_rows * self.row_bytes


def shard_of(tensor: Tensor, spans: RankSpans) -> Shard:
    """What a rank with these spans holds of the tensor."""
    rows, cols = Span(0, tensor.n_rows), Span(0, tensor.n_cols)
    cut = tensor.cut
    if cut is None:
        return Shard(tensor, rows, cols)
    part = cut.of(spans[cut.axis])
    return Shard(tensor, part, cols) if cut.along is Along.ROWS else Shard(tensor, rows, part)
