"""Weights of 8 bits in floating point (E4M3), as DeepSeek, Qwen, compressed-tensors and others store them.

    weight              F8_E4M3 [N, K]
    weight_scale_inv    [N / 128, K / 128], rounded up: what each block of weights is multiplied with, whatever it is
    called weight_scale        the same, or one number for each row [N, 1], or one for all

They become float32, for another type to be found. q80, of as many bytes, is off by 0.005 of what weights of a normal
distribution are, a fifth of what E4M3 has lost itself; f16 by 0.0002.
"""

from __future__ import annotations

import numpy as np

from dllama.checkpoint.hf.floats import FloatTable
from dllama.checkpoint.hf.parts import Parts, Shape
from dllama.checkpoint.recipes import Bytes, Floats, Recipe, Rows
from dllama.dtypes import ElementType


def fp8_recipe(parts: Parts, n_rows: int, n_cols: int, block: Shape) -> Recipe:
    """`block`: rows and columns that share a scale, where there are several of both. Raises ModelFileError or
    UnsupportedModelError, naming file and tensor."""
    weights = parts.floats("weight", (n_rows, n_cols))
    name = "weight_scale" if parts.has("weight_scale") else "weight_scale_inv"
    of_blocks = -(-n_rows // block[0]), -(-n_cols // block[1])
    scales = parts.floats(name, of_blocks, (n_rows, 1), (n_rows,), (1,), (1, 1), ())
    height = -(-n_rows // scales.data.shape[0]) if scales.data.shape != of_blocks else block[0]
    width = n_cols if scales.data.shape[1] == 1 else block[1]

    def take(rows: Rows, cols: range) -> Bytes:
        values = weights.take(rows, slice(cols.start, cols.stop))
        values *= _scales(scales, np.asarray(rows, np.int64) // height, cols, width)
        return values.view(np.uint8)

    return Recipe(n_rows, n_cols, ElementType.F32, parts.where("weight"), "fp8", take)


def _scales(
    scales: FloatTable, rows: np.ndarray[tuple[int, ...], np.dtype[np.int64]], cols: range, width: int
) -> Floats:
    """[rows, cols], or [rows, 1] where columns share one."""
    if scales.data.shape[1] == 1:
        return scales.take(rows, slice(0, 1))
    return scales.take(rows, np.arange(cols.start, cols.stop, dtype=np.int64) // width)
