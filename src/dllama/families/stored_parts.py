"""What files store otherwise than we have it: q, k and v in one matrix, experts in a stack, heads in another order."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray


@dataclasses.dataclass(frozen=True)
class StoredPart:
    """`rows` of the tensor that files call `pattern` (as Family.other_names), which has `n_rows` in all, those of a
    stack one after another. None: it has as many as ours, which are all of it. `transposed`: they are our columns;
    with `matrix_rows` so many of them at a time, one matrix after another (Tensor.matrix_rows).
    Else `columns` says which of its columns is each of ours, heads staying whole. `exponent`: it has -e^x of our x.
    """

    pattern: str
    n_rows: int | None = None
    rows: NDArray[np.int64] | None = None
    transposed: bool = False
    columns: NDArray[np.int64] | None = None
    exponent: bool = False
    matrix_rows: int = 0

    def name(self, layer: str) -> str:
        return self.pattern.format(layer=layer)


@dataclasses.dataclass(frozen=True)
class Fused:
    """Where several tensors of ours, `of`, are stored as one: their rows one after another, or in turn where they are
    `interleaved`. Of experts all matrices are one tensor [n_experts, rows, columns]; `transposed`: [.., columns, rows].
    Of biases of experts, [n_experts, n], it is the columns that follow each other."""

    name: str
    of: tuple[str, ...]
    interleaved: bool = False
    transposed: bool = False


def one_after_another(
    pattern: str, name: str, n_rows: Mapping[str, int], *, transposed: bool = False
) -> StoredPart | None:
    """Which rows of a tensor are those of `name`, where it has so many of each, one after another; None where it has
    none. `transposed`: see StoredPart."""
    if name not in n_rows:
        return None
    first = sum(list(n_rows.values())[: list(n_rows).index(name)])
    own = np.arange(first, first + n_rows[name])
    return StoredPart(pattern, sum(n_rows.values()), own, transposed=transposed)


def queries_or_gates(pattern: str, name: str, n_heads: int, width: int) -> StoredPart | None:
    """The rows of `q` or of `q_gate`, where each head has first its queries, then its gate; None for others."""
    if name not in ("q", "q_gate"):
        return None
    starts = 2 * width * np.arange(n_heads) + (width if name == "q_gate" else 0)
    return StoredPart(pattern, 2 * width * n_heads, runs(starts, width))


def runs(starts: NDArray[np.int64] | range, length: int) -> NDArray[np.int64]:
    """`length` rows from each of `starts` on."""
    return np.add.outer(np.asarray(starts, np.int64), np.arange(length)).ravel()
