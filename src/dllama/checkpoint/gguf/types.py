"""What becomes of each of ggml's types: most are used as they are, others are dequantised and quantised anew.

What has no kernel goes to q80, whose blocks of 32 have 255 steps, more than any of these types has: what is lost is far
less than what they have lost already. BF16 goes to f16, which has more bits of each number and the same bytes; below
6e-5 its steps are 6e-8, and above 65504 it has no numbers, which is said.
"""

from __future__ import annotations

import functools

import numpy as np

from dllama.checkpoint.recipes import Bytes, Recipe, Rows, stored
from dllama.dtypes import ElementType
from dllama.formats.gguf import GgmlType, GgufTensor, can_dequantize, dequantize
from dllama.model import MATRIX_TYPES


@functools.cache
def is_read(kind: GgmlType) -> bool:
    return kind.element_type is not None or can_dequantize(kind)


@functools.cache
def memory_type(kind: GgmlType) -> ElementType:
    """What a matrix of this type is in memory."""
    dtype = kind.element_type
    if dtype is not None and dtype in MATRIX_TYPES:
        return dtype
    if dtype is ElementType.BF16:
        return ElementType.F16
    return ElementType.F32 if kind.block == 1 else ElementType.Q80


def gguf_recipe(data: Bytes, tensor: GgufTensor, n_cols: int, where: str) -> Recipe:
    """The rows of `tensor`, of which `data` are all bytes: as they are, or dequantised where native code does not read
    them."""
    rows = data.reshape(-1, n_cols // tensor.type.block * tensor.type.block_bytes)
    dtype = tensor.element_type
    if dtype is not None:
        return stored(rows, n_cols, dtype, where)
    return _dequantised(rows, n_cols, tensor.type, where)


def _dequantised(data: Bytes, n_cols: int, kind: GgmlType, where: str) -> Recipe:
    """As float32; columns are read in whole blocks. Scales that are no numbers give values that are none."""
    block, block_bytes = kind.block, kind.block_bytes

    def take(rows: Rows, cols: range) -> Bytes:
        first, stop = cols.start // block, -(-cols.stop // block)
        index = slice(rows.start, rows.stop, rows.step) if isinstance(rows, range) else rows
        part = np.ascontiguousarray(data[index, first * block_bytes : stop * block_bytes])
        values = dequantize(kind, part.reshape(-1)).reshape(len(rows), (stop - first) * block)
        begin = cols.start - first * block
        return np.ascontiguousarray(values[:, begin : begin + len(cols)]).view(np.uint8)

    return Recipe(len(data), n_cols, ElementType.F32, where, kind.name.lower(), take)
