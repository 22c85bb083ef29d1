"""Weights of few bits that share a scale in groups of columns, as blocks of ours, which hold them exactly where they
can.

What is stored of a weight is a quant q; the weight is (q - zero) scale, or q scale + minimum. Groups that are whole
blocks of 32 columns become

    q40     (q - 8) d          quants of 2 to 4 bits, one zero for all; of 2 and 3 bits, any zeros
    q50     (q - 16) d         of 4 bits and any zeros: q - zero has five bits
    q80     q d                of 8 bits with the zero in the middle
    q41, q51    q d + m        of 2 to 4 and of 5 bits with a minimum

where d and m are float16, as most scales are; the bits of a bfloat16 fit too, unless it is below 2**-17, and a float32
is rounded. All other are dequantised to float32, for another type to be found.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from dllama.checkpoint.hf.floats import FloatTable
from dllama.checkpoint.hf.parts import Parts, group_width
from dllama.checkpoint.recipes import Bytes, Floats, Recipe, Rows
from dllama.dtypes import BLOCK, ElementType
from dllama.errors import ModelFileError
from dllama.kernels.blocks import LAYOUTS

Zeros: TypeAlias = NDArray[np.int16]
Groups: TypeAlias = NDArray[np.int64]
"""Numbers of groups of columns."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Grouped:
    """A matrix [n_rows, n_cols] of quants of `bits` bits, with numbers for each row and group of columns."""

    n_rows: int
    n_cols: int
    bits: int
    quants: Callable[[Rows, range], Bytes]
    """[rows, cols], 0 to 2**bits - 1. Columns are whole blocks of 32, or all."""
    scales: FloatTable
    """[n_rows, n_groups]"""
    width: int
    """Columns of a group."""
    zeros: int | Callable[[Rows], Zeros] = 0
    """One for all, or [rows, n_groups], 0 to 2**bits."""
    minimums: FloatTable | None = None
    """In place of zeros."""
    group_of: Groups | None = None
    """The group of each column, where they are in no order."""
    where: str
    stored_type: str

    def groups(self, cols: range, step: int = 1) -> Groups:
        """Those of every `step`-th column."""
        if self.group_of is not None:
            return self.group_of[cols.start : cols.stop : step]
        return np.arange(cols.start, cols.stop, step, dtype=np.int64) // self.width


def grouped_recipe(of: Grouped) -> Recipe:
    """In the type that holds it exactly, or as float32."""
    dtype = _exact_type(of)

    def take(rows: Rows, cols: range) -> Bytes:
        if dtype is ElementType.F32:
            return _values(of, rows, cols).view(np.uint8)
        groups = of.groups(cols, BLOCK)
        blocks = np.empty((len(rows), len(groups)), LAYOUTS[dtype])
        with np.errstate(over="ignore"):  # infinity is found where all numbers are looked at
            blocks["scale"] = of.scales.take(rows, groups)
            if of.minimums is not None:
                blocks["min"] = of.minimums.take(rows, groups)
        _write_quants(
            blocks, dtype, _shifted(of, rows, cols, groups, _OFFSETS.get(dtype)).reshape(*blocks.shape, BLOCK)
        )
        return blocks.view(np.uint8)

    return Recipe(of.n_rows, of.n_cols, dtype, of.where, of.stored_type, take)


_OFFSETS: Mapping[ElementType, int] = MappingProxyType(
    {ElementType.Q40: 8, ElementType.Q50: 16, ElementType.Q80: 0}
)
"""What a type with this one is less: q - zero and it are stored."""
_WITH_MIDDLE_ZERO: Mapping[int, ElementType] = MappingProxyType(
    {2: ElementType.Q40, 3: ElementType.Q40, 4: ElementType.Q40, 5: ElementType.Q50, 8: ElementType.Q80}
)
_WITH_ZEROS: Mapping[int, ElementType] = MappingProxyType(
    {2: ElementType.Q40, 3: ElementType.Q40, 4: ElementType.Q50}
)
_WITH_MINIMUMS: Mapping[int, ElementType] = MappingProxyType(
    {2: ElementType.Q41, 3: ElementType.Q41, 4: ElementType.Q41, 5: ElementType.Q51}
)
"""What holds quants of so many bits."""


def _exact_type(of: Grouped) -> ElementType:
    """F32 where there is none."""
    if of.width % BLOCK or of.n_cols % BLOCK or of.group_of is not None:
        return ElementType.F32
    if of.minimums is not None:
        held = _WITH_MINIMUMS
    elif isinstance(of.zeros, int):
        held = _WITH_MIDDLE_ZERO if of.zeros == 1 << (of.bits - 1) else {}
    else:
        held = _WITH_ZEROS
    return held.get(of.bits, ElementType.F32)


def _shifted(of: Grouped, rows: Rows, cols: range, groups: Groups, offset: int | None) -> Bytes:
    """q - zero + offset, modulo 256, [rows, cols], or q where there is no offset; `groups` are those of the blocks."""
    quants = of.quants(rows, cols)
    if offset is None:
        return quants
    if isinstance(of.zeros, int):
        shift = (offset - of.zeros) % 256
        return quants + np.uint8(shift) if shift else quants
    shifts = (offset - of.zeros(rows)[:, groups]).astype(np.uint8)
    return quants.reshape(len(rows), len(groups), BLOCK) + shifts[..., None]


def _write_quants(blocks: NDArray[np.void], dtype: ElementType, quants: Bytes) -> None:
    """`quants` [..., 32] into blocks of the type, at most as many bits of each as it has."""
    if dtype is ElementType.Q80:
        blocks["quants"] = quants.view(np.int8)
        return
    low, high = quants[..., : BLOCK // 2], quants[..., BLOCK // 2 :]
    if dtype in (ElementType.Q50, ElementType.Q51):
        blocks["fifth"] = np.packbits(quants >> 4, axis=-1, bitorder="little")
        low, high = low & np.uint8(15), high & np.uint8(15)
    np.bitwise_or(low, high << 4, out=blocks["nibbles"])


def _values(of: Grouped, rows: Rows, cols: range) -> Floats:
    """float32 [rows, cols]."""
    groups = of.groups(cols)
    values = of.quants(rows, cols).astype(np.float32)
    if of.minimums is None:
        zeros = of.zeros if isinstance(of.zeros, int) else of.zeros(rows)[:, groups].astype(np.float32)
        values -= zeros
    values *= of.scales.take(rows, groups)
    if of.minimums is not None:
        values += of.minimums.take(rows, groups)
    return values


def unpacked(data: Bytes, bits: int) -> Bytes:
    """The numbers [..., m] in `data` [..., m * bits / 8], where each row is a stream of bits, lowest first: what words
    of 32 bits hold whose first number is in the lowest bits."""
    if bits == 8:
        return data
    if bits in (2, 4):
        per_byte = 8 // bits
        out = np.empty((*data.shape, per_byte), np.uint8)
        mask = np.uint8((1 << bits) - 1)
        for number in range(per_byte):
            np.bitwise_and(data >> np.uint8(bits * number), mask, out=out[..., number])
        return out.reshape(*data.shape[:-1], per_byte * data.shape[-1])
    stream = np.unpackbits(data, axis=-1, bitorder="little")
    return np.packbits(
        stream.reshape(*data.shape[:-1], 8 * data.shape[-1] // bits, bits), axis=-1, bitorder="little"
    )[..., 0]


def bytes_of_words(words: NDArray[Any]) -> Bytes:
    """[..., 4 n] of `words` [..., n] of 32 bits."""
    return np.ascontiguousarray(words).view(np.uint8)


def groups_in_order(parts: Parts, part: str, n_cols: int, n_groups: int) -> tuple[int, Groups | None]:
    """Columns of a group, and the group of each column where they are in no order, from the tensor that lists the
    group of each column, or has -1 for all where they are in order. Raises ModelFileError for groups that are not
    there."""
    group_of = parts.array(part, ["I32", "I64"], (n_cols,)).astype(np.int64)
    if (group_of == -1).all():
        return group_width(parts, part, n_cols, n_groups), None
    if not 0 <= group_of.min() <= group_of.max() < n_groups:
        raise ModelFileError(
            f"{parts.where(part)} names the groups {group_of.min()} to {group_of.max()}, and there are {n_groups};"
            " download it again"
        )
    width = int(np.count_nonzero(group_of == 0))
    if width and np.array_equal(group_of, np.arange(n_cols) // width):
        return width, None
    return n_cols, group_of
