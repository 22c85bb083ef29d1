"""What rows that are cut within blocks of 256 stand for, in NumPy (docs/formats.md has the layout)."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np

from dllama.dtypes import BLOCK, ElementType, cut_row_bytes
from dllama.kernels.blocks import Bytes, Float32, Quants, decode, in_halves, scaled_runs

_SCALE, _TWELVE = ("scale", "<f2"), ("scales", "u1", 12)
_HEADS: Mapping[ElementType, np.dtype[np.void]] = MappingProxyType(
    {
        ElementType.Q4K: np.dtype([_SCALE, ("min", "<f2"), _TWELVE]),
        ElementType.Q5K: np.dtype([_SCALE, ("min", "<f2"), _TWELVE]),
        ElementType.Q6K: np.dtype([_SCALE, ("scales", "i1", 16)]),
        ElementType.IQ4XS: np.dtype([_SCALE, ("scales_high", "<u2"), ("scales_low", "u1", 4)]),
    }
)
"""What a block that is cut begins with."""


def decode_cut(dtype: ElementType, data: Bytes, start: int, stop: int) -> Float32:
    """Elements [start, stop) of rows `data [T, cut_row_bytes(dtype, start, stop)]`: float32 `[T, stop - start]`, the
    bits that `decode` gives of whole rows."""
    values = np.empty((len(data), stop - start), np.float32)
    while start < stop:
        edge = min(stop, (start // dtype.block + 1) * dtype.block)
        if start % dtype.block == 0 and stop - start >= dtype.block:
            edge = stop // dtype.block * dtype.block
        part, data = np.split(data, [cut_row_bytes(dtype, start, edge)], axis=1)
        is_whole = start % dtype.block == edge % dtype.block == 0
        of_part = decode(dtype, part, edge - start) if is_whole else _decode_runs(dtype, part, start)
        values[:, values.shape[1] - (stop - start) :][:, : edge - start] = of_part
        start = edge
    return values


def _decode_runs(dtype: ElementType, data: Bytes, start: int) -> Float32:
    """Some runs of a block of each row, after its head; the first of them is that of element `start`."""
    head = _HEADS[dtype]
    heads = np.ascontiguousarray(data[:, : head.itemsize]).view(head)[:, 0]
    run_bytes = (dtype.block_bytes - head.itemsize) * BLOCK // dtype.block
    runs = data[:, head.itemsize :].reshape(len(data), -1, run_bytes)
    with np.errstate(over="ignore", invalid="ignore"):
        values = scaled_runs(dtype, heads, _quants(runs), start % dtype.block // BLOCK)
    return values.reshape(len(data), -1)


def _quants(runs: Bytes) -> Quants:
    """`[T, n, 32]` of runs `[T, n, bytes]`: 16 bytes of nibbles, and before them planes of the fifth bits, or of two
    more bits for each half of the run. With one bit for each quant, bit g of byte c belongs to element 4 g + c; with
    two, bits 2 g and 2 g + 1 of byte c do."""
    planes, nibbles = runs[..., :-16], in_halves(runs[..., -16:])
    if planes.shape[-1] == 0:
        return nibbles
    high: Quants
    if planes.shape[-1] == 4:
        high = np.unpackbits(planes[..., None], axis=-1, bitorder="little")  # [..., c, g]
    else:
        halves = planes.reshape(*planes.shape[:-1], 2, 4, 1)
        high = halves >> np.arange(0, 8, 2, dtype=np.uint8) & 3  # [..., half, c, g]
    return nibbles | high.swapaxes(-1, -2).reshape(nibbles.shape) << 4
