"""Recipes: how a matrix of ours is read from what files store.

A recipe is a matrix of one element type that reads, of what is stored, the rows and columns that are asked of it and no
more. `stored` is the one that reads a map; the others stand on recipes:

    part                  some rows: of q, k, v that are stored as one, or every second (gate and up, interleaved)
    picked                some rows in any order: those of each head, of heads that lie in turn with others
    reordered             the columns of heads in another order
    logarithm             of numbers that are stored as -e^x
    stack                 the rows of many as one matrix: experts, each stored by itself
    side_by_side          the columns of many as one matrix: what was cut for several GPUs
    transposed            rows as columns
    halves_to_pairs, pairs_to_halves    the rows of each head in another order
    plus                  a number added to every element
    as_type               another element type: dequantised, quantised, or both

Under our name each is what a table of names says; a recipe knows only where it comes from.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from dllama.dtypes import ElementType, cut_row_bytes, row_bytes, whole_blocks
from dllama.errors import NumericalError
from dllama.kernels import convert, cut_rows, quantize

Bytes: TypeAlias = NDArray[np.uint8]
Floats: TypeAlias = NDArray[np.float32]
Rows: TypeAlias = range | NDArray[np.int64]
"""Rows in the order in which they are wanted, which may be any."""

QUANTISED_TYPES = (ElementType.Q40, ElementType.Q80, ElementType.IQ4NL, ElementType.Q4K, ElementType.Q6K)
"""Those that weights of other types are quantised to."""


@dataclasses.dataclass(frozen=True)
class Recipe:
    """A matrix `[n_rows, n_cols]`; a vector has one row. It may be used from any thread."""

    n_rows: int
    n_cols: int
    dtype: ElementType
    where: str
    """File and name of what is stored, for messages."""
    stored_type: str
    """What the file calls the type that it has, for `info`."""
    take: Callable[[Rows, range], Bytes]
    """Bytes of some rows and of some columns that follow each other, `[n, bytes of a row]`, perhaps a read-only view.
    The columns start and stop at multiples of `dtype.run`; blocks that they cut are as ranks hold them. Raises
    NumericalError as `fill` does where it has to compute."""
    is_view: bool = False
    """Whether runs of whole rows are views of the map: nothing is copied or computed."""


def stored(data: Bytes, n_cols: int, dtype: ElementType, where: str) -> Recipe:
    """The rows `data` [n_rows, bytes of a row], at any alignment, as they are."""

    def take(rows: Rows, cols: range) -> Bytes:
        index = slice(rows.start, rows.stop, rows.step) if isinstance(rows, range) else rows
        if len(cols) == n_cols:
            return data[index]
        whole = whole_blocks(dtype, cols.start, cols.stop)
        blocks = data[index, row_bytes(dtype, whole.start) : row_bytes(dtype, whole.stop)]
        if whole == cols:
            return blocks
        out = np.empty((len(blocks), cut_row_bytes(dtype, cols.start, cols.stop)), np.uint8)
        cut_rows(out, dtype, np.ascontiguousarray(blocks), cols.start, len(cols))
        return out

    return Recipe(len(data), n_cols, dtype, where, dtype.label, take, is_view=True)


def part(base: Recipe, which: range) -> Recipe:
    """The rows `which`: `range(first, stop)`, or every second as `range(0, n, 2)`."""

    def take(rows: Rows, cols: range) -> Bytes:
        if isinstance(rows, range):
            return base.take(which[rows.start : rows.stop : rows.step], cols)
        return base.take(which.start + which.step * rows, cols)

    is_view = base.is_view and which.step == 1
    return dataclasses.replace(base, n_rows=len(which), take=take, is_view=is_view)


def picked(base: Recipe, which: NDArray[np.int64]) -> Recipe:
    """The rows `which`, in that order."""

    def take(rows: Rows, cols: range) -> Bytes:
        wanted = which[rows.start : rows.stop : rows.step] if isinstance(rows, range) else which[rows]
        return base.take(_run(wanted) if len(wanted) else range(0), cols)

    return dataclasses.replace(base, n_rows=len(which), take=take, is_view=False)


def reordered(base: Recipe, which: NDArray[np.int64]) -> Recipe:
    """The columns `which`, in that order: whole blocks of the base's type, of which none is cut."""
    block, size = base.dtype.block, base.dtype.block_bytes
    of_blocks = which[::block] // block
    assert block == base.dtype.run, base.where
    assert np.array_equal(which, np.add.outer(of_blocks * block, np.arange(block)).ravel()), base.where

    def take(rows: Rows, cols: range) -> Bytes:
        blocks = base.take(rows, range(base.n_cols)).reshape(len(rows), -1, size)
        wanted = of_blocks[cols.start // block : cols.stop // block]
        return blocks[:, wanted].reshape(len(rows), size * len(wanted))

    return dataclasses.replace(base, n_cols=len(which), take=take, is_view=False)


def logarithm(base: Recipe) -> Recipe:
    """Of the negative of every element, in float32: what is stored as -e^x."""
    wide = as_type(base, ElementType.F32)

    def take(rows: Rows, cols: range) -> Bytes:
        with np.errstate(divide="ignore", invalid="ignore"):  # no number is told where it is read
            return np.log(-np.ascontiguousarray(wide.take(rows, cols)).view(np.float32)).view(np.uint8)

    return dataclasses.replace(wide, take=take)


def stack(parts: Sequence[Recipe]) -> Recipe:
    """The rows of all parts, one part after another. The parts have one width and one type."""
    first = parts[0]
    assert all((each.n_cols, each.dtype) == (first.n_cols, first.dtype) for each in parts)
    if len(parts) == 1:
        return first
    starts = np.cumsum([0, *(each.n_rows for each in parts)])

    def take(rows: Rows, cols: range) -> Bytes:
        wanted = np.asarray(rows, np.int64)
        out = np.empty((len(wanted), cut_row_bytes(first.dtype, cols.start, cols.stop)), np.uint8)
        owner = np.searchsorted(starts, wanted, side="right") - 1
        for number in np.unique(owner):
            mine = np.flatnonzero(owner == number)
            out[mine] = parts[number].take(_run(wanted[mine] - starts[number]), cols)
        return out

    where = f"{first.where} and {len(parts) - 1} more"
    return Recipe(int(starts[-1]), first.n_cols, first.dtype, where, first.stored_type, take)


def side_by_side(parts: Sequence[Recipe]) -> Recipe:
    """The columns of all parts, one part after another. The parts have one number of rows and one type, of no
    blocks."""
    first = parts[0]
    assert all((each.n_rows, each.dtype) == (first.n_rows, first.dtype) for each in parts)
    assert not first.dtype.is_blocked, first.where
    if len(parts) == 1:
        return first
    starts = [0, *itertools.accumulate(each.n_cols for each in parts)]

    def take(rows: Rows, cols: range) -> Bytes:
        runs = []
        for each, start in zip(parts, starts, strict=False):
            own = range(max(cols.start - start, 0), min(cols.stop - start, each.n_cols))
            if len(own):
                runs.append(each.take(rows, own))
        return np.concatenate(runs, axis=1) if runs else first.take(rows, range(0))

    where = f"{first.where} and {len(parts) - 1} more"
    return Recipe(first.n_rows, starts[-1], first.dtype, where, first.stored_type, take)


def transposed(base: Recipe) -> Recipe:
    """Column j of the base is row j. What is stored in blocks has to be dequantised first."""
    assert not base.dtype.is_blocked, base.where

    def take(rows: Rows, cols: range) -> Bytes:
        wanted = np.asarray(rows, np.int64)
        first, stop = (int(wanted.min()), int(wanted.max()) + 1) if len(wanted) else (0, 0)
        size = base.dtype.block_bytes
        elements = base.take(cols, range(first, stop)).reshape(len(cols), stop - first, size)
        return elements[:, wanted - first].swapaxes(0, 1).reshape(len(wanted), size * len(cols))

    return dataclasses.replace(base, n_rows=base.n_cols, n_cols=base.n_rows, take=take, is_view=False)


def halves_to_pairs(base: Recipe, head_width: int, n_rotated: int | None = None) -> Recipe:
    """Rows of q or k in adjacent pairs, from Hugging Face's halves: row 2 j + s of a head is its row s E/2 + j. Where
    only the first `n_rotated` rows of each head are turned, halves are those of these, and the others stay. Of a bias
    the numbers are put into this order."""
    if base.n_rows == 1:
        return transposed(halves_to_pairs(transposed(base), head_width, n_rotated))
    n_paired = head_width if n_rotated is None else n_rotated

    def take(rows: Rows, cols: range) -> Bytes:
        head, within = np.divmod(np.asarray(rows, np.int64), head_width)
        pair, side = np.divmod(within, 2)
        paired = np.where(within < n_paired, side * (n_paired // 2) + pair, within)
        return base.take(head * head_width + paired, cols)

    return dataclasses.replace(base, take=take, is_view=False)


def pairs_to_halves(base: Recipe, head_width: int) -> Recipe:
    """The inverse: row s E/2 + j of a head is its row 2 j + s."""

    def take(rows: Rows, cols: range) -> Bytes:
        head, within = np.divmod(np.asarray(rows, np.int64), head_width)
        side, pair = np.divmod(within, head_width // 2)
        return base.take(head * head_width + 2 * pair + side, cols)

    return dataclasses.replace(base, take=take, is_view=False)


def plus(base: Recipe, number: float) -> Recipe:
    """Every element and `number`, in float32: norms that are stored as what is to be added to 1."""
    wide = as_type(base, ElementType.F32)

    def take(rows: Rows, cols: range) -> Bytes:
        return (wide.take(rows, cols).view(np.float32) + np.float32(number)).view(np.uint8)

    return dataclasses.replace(wide, take=take)


def as_type(base: Recipe, dtype: ElementType) -> Recipe:
    """The elements as `dtype`; the base itself where they are that."""
    if base.dtype is dtype:
        return base

    def take(rows: Rows, cols: range) -> Bytes:
        out = np.empty((len(rows), cut_row_bytes(dtype, cols.start, cols.stop)), np.uint8)
        fill(out, dtype, base, rows, cols)
        return out

    return dataclasses.replace(base, dtype=dtype, take=take, is_view=False)


def fill(
    out: Bytes, dtype: ElementType, base: Recipe, rows: Rows, cols: range, importance: Floats | None = None
) -> None:
    """Writes rows and columns of `base` as `dtype` into `out`, C-contiguous, and looks at every number.

    Columns start and stop at multiples of `dtype.run`; to look at blocks of the base, or to convert them, whole ones
    are read and the rest is dropped. Quantising searches the scales that lose least; `importance` [n_cols], or
    [n_matrices, n_cols] of a stack, says what each column of the base counts then. Raises NumericalError, naming file
    and tensor, on NaN, infinity or a number too large for `dtype`.
    """
    assert out.flags.c_contiguous, base.where
    if dtype in QUANTISED_TYPES and dtype is not base.dtype:
        whole = whole_blocks(dtype, cols.start, cols.stop)
        blocks = np.empty((len(rows), row_bytes(dtype, len(whole))), np.uint8) if whole != cols else out
        is_sound = _quantise(blocks, dtype, base, rows, whole, importance)
        if blocks is not out:
            of_rank = cut_row_bytes(dtype, cols.start, cols.stop)
            cut_rows(out.reshape(len(rows), of_rank), dtype, blocks, cols.start, len(cols))
    elif dtype is base.dtype:  # as it is: quantising what is quantised could find other blocks
        taken = base.take(rows, cols)
        out.reshape(taken.shape)[...] = taken
        whole = whole_blocks(dtype, cols.start, cols.stop)
        scratch = np.empty(4 * len(rows) * len(whole), np.uint8)
        looked_at = taken if whole == cols else base.take(rows, whole)
        is_sound = _convert(scratch, ElementType.F32, looked_at, dtype)
    elif whole_blocks(base.dtype, cols.start, cols.stop) == cols:
        is_sound = _convert(out, dtype, base.take(rows, cols), base.dtype)
    else:
        is_sound = _convert(out, dtype, _values(base, rows, cols).view(np.uint8), ElementType.F32)
    if not is_sound:
        raise _not_finite(base, dtype)


def _quantise(
    out: Bytes, dtype: ElementType, base: Recipe, rows: Rows, cols: range, importance: Floats | None
) -> bool:
    """As fill, of whole blocks. False where something is not finite."""
    values = _values(base, rows, cols)
    blocks = out.reshape(len(rows), row_bytes(dtype, len(cols)))
    if importance is None or importance.ndim == 1:
        of_cols = None if importance is None else importance[cols.start : cols.stop]
        return quantize(blocks, dtype, values, of_cols)
    is_sound = True
    matrix = np.asarray(rows, np.int64) // (base.n_rows // len(importance))
    edges = [0, *(int(edge) + 1 for edge in np.flatnonzero(np.diff(matrix))), len(matrix)]
    for first, stop in itertools.pairwise(edges):  # rows of one matrix
        if first < stop:
            of_cols = importance[matrix[first], cols.start : cols.stop]
            is_sound &= quantize(blocks[first:stop], dtype, values[first:stop], of_cols)
    return is_sound


def _values(base: Recipe, rows: Rows, cols: range) -> Floats:
    """Rows and columns of the base as float32, C-contiguous."""
    whole = whole_blocks(base.dtype, cols.start, cols.stop)
    taken = base.take(rows, whole)
    if base.dtype is ElementType.F32:
        return np.ascontiguousarray(taken).view(np.float32)
    values = np.empty((len(rows), len(whole)), np.float32)
    if not _convert(values.view(np.uint8), ElementType.F32, taken, base.dtype):
        raise _not_finite(base, ElementType.F32)
    first = cols.start - whole.start
    return np.ascontiguousarray(values[:, first : first + len(cols)])


def _convert(out: Bytes, dtype: ElementType, src: Bytes, src_type: ElementType) -> bool:
    n_elements = out.nbytes // dtype.block_bytes * dtype.block
    if not src.flags.c_contiguous:
        src = np.ascontiguousarray(src)
    return convert(out.reshape(-1), dtype, src.reshape(-1).data, src_type, n_elements)


def _not_finite(base: Recipe, dtype: ElementType) -> NumericalError:
    return NumericalError(
        f"{base.where}: has NaN, infinity or a number too large for {dtype.label};"
        " the file is damaged, or take another weight type"
    )


def _run(rows: NDArray[np.int64]) -> Rows:
    """`rows`, as a range where they follow each other: views are made of it."""
    return range(int(rows[0]), int(rows[-1]) + 1) if (np.diff(rows) == 1).all() else rows
