"""Tensors of ours that files store otherwise: see families/stored_parts.py."""

from __future__ import annotations

import math
from collections.abc import Callable

from dllama.checkpoint.recipes import Recipe, as_type, logarithm, part, picked, reordered, stack, transposed
from dllama.dtypes import ElementType
from dllama.families import StoredPart
from dllama.sharding import Tensor


def stored_shape(of: StoredPart, wanted: Tensor) -> tuple[int, int]:
    """Rows and columns of what is stored, all its matrices one after another; a vector is one row."""
    n_cols = (wanted.matrix_rows or wanted.n_rows) if of.transposed else wanted.n_cols
    return of.n_rows or wanted.stacked_rows, n_cols


def has_shape(shape: tuple[int, ...], of: StoredPart, wanted: Tensor) -> bool:
    """Whether a tensor of this shape is what `wanted` is a part of."""
    return (math.prod(shape[:-1]), *shape[-1:]) == stored_shape(of, wanted)


def part_recipe(of: StoredPart, wanted: Tensor, matrix: Callable[[int, int], Recipe]) -> Recipe:
    """`wanted`, of what is stored: matrix(rows, columns) reads it as a matrix of so many."""
    rows = matrix(*stored_shape(of, wanted))
    if of.rows is not None:
        rows = picked(rows, of.rows)
    if of.transposed:
        plain = as_type(rows, ElementType.F32) if rows.dtype.is_blocked else rows
        size = of.matrix_rows or plain.n_rows
        firsts = range(0, plain.n_rows, size)
        rows = stack([transposed(part(plain, range(first, first + size))) for first in firsts])
    if of.columns is not None:
        rows = reordered(rows if fits(rows.dtype, of) else as_type(rows, ElementType.F32), of.columns)
    return logarithm(rows) if of.exponent else rows


def fits(dtype: ElementType, of: StoredPart) -> bool:
    """Whether blocks of this type stay whole when columns take our order."""
    if of.columns is None:
        return True
    starts = of.columns[:: dtype.block]
    return dtype.block == dtype.run and bool((starts % dtype.block == 0).all())
