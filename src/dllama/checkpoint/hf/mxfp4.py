"""MXFP4 (the OCP's microscaling formats, v1.0) and NVFP4: numbers of four bits (E2M1), two in a byte, the first one
low.

    gpt-oss                 ..._blocks U8 [E, N, K / 32, 16], ..._scales U8 [E, N, K / 32]
    compressed-tensors      weight_packed U8 [N, K / 2], weight_scale U8 [N, K / 32]
    MLX                     weight U32 [N, K / 8], scales U8 [N, K / 32]

for a matrix of N outputs and K inputs. Scales are exponents of two, so these are blocks of our own MXFP4, whose 16
bytes hold other pairs. NVFP4 has scales of E4M3 for 16 inputs each and one more for all, and becomes float32.
"""

from __future__ import annotations

import numpy as np

from dllama.checkpoint.hf.floats import FloatTable, rows_index
from dllama.checkpoint.hf.parts import Parts
from dllama.checkpoint.recipes import Bytes, Recipe, Rows
from dllama.dtypes import BLOCK, ElementType
from dllama.errors import ModelFileError
from dllama.kernels.blocks import LAYOUTS, MXFP4_VALUES

FP4_PARTS = ("_blocks", "_scales")
"""How gpt-oss calls the parts of what would be a tensor."""

_NVFP4_WIDTH = 16
_PAIR_BYTES = BLOCK // 2


def mxfp4_recipe(nibbles: Bytes, exponents: Bytes, where: str) -> Recipe:
    """`nibbles` [N, K / 2], `exponents` [N, K / 32]."""
    n_rows, n_blocks = exponents.shape

    def take(rows: Rows, cols: range) -> Bytes:
        first, stop = cols.start // BLOCK, cols.stop // BLOCK
        pairs = nibbles[rows_index(rows), first * _PAIR_BYTES : stop * _PAIR_BYTES]
        pairs = pairs.reshape(len(rows), stop - first, 2, _PAIR_BYTES // 2)
        blocks = np.empty((len(rows), stop - first), LAYOUTS[ElementType.MXFP4])
        blocks["exponent"] = exponents[rows_index(rows), first:stop]
        low, high = pairs[..., 0, :], pairs[..., 1, :]
        blocks["nibbles"][..., 0::2] = low & 15 | high << 4
        blocks["nibbles"][..., 1::2] = low >> 4 | high & 0xF0
        return blocks.view(np.uint8)

    return Recipe(n_rows, n_blocks * BLOCK, ElementType.MXFP4, where, "mxfp4", take)


def stacked_fp4_recipes(parts: Parts, n_stacked: int, n_rows: int, n_cols: int) -> list[Recipe]:
    """Of gpt-oss's experts: one for each. Raises ModelFileError or UnsupportedModelError, naming file and tensor."""
    blocks, scales = FP4_PARTS
    n_blocks = n_cols // BLOCK
    where = parts.where(blocks)
    check_whole_blocks(n_cols, where)
    pairs = parts.array(blocks, ["U8"], (n_stacked, n_rows, n_blocks, _PAIR_BYTES))
    exponents = parts.array(scales, ["U8"], (n_stacked, n_rows, n_blocks))
    nibbles = pairs.reshape(n_stacked, n_rows, n_blocks * _PAIR_BYTES)
    return [mxfp4_recipe(nibbles[each], exponents[each], where) for each in range(n_stacked)]


def packed_fp4_recipe(parts: Parts, n_rows: int, n_cols: int) -> Recipe:
    """Of `weight_packed`, MXFP4 or NVFP4. Raises ModelFileError or UnsupportedModelError, naming file and tensor."""
    nibbles = parts.array("weight_packed", ["U8"], (n_rows, n_cols // 2))
    where = parts.where("weight_packed")
    if parts.tensor("weight_scale").dtype == "U8":
        check_whole_blocks(n_cols, where)
        return mxfp4_recipe(nibbles, parts.array("weight_scale", ["U8"], (n_rows, n_cols // BLOCK)), where)
    scales = parts.floats("weight_scale", (n_rows, n_cols // _NVFP4_WIDTH))
    of_all = parts.floats("weight_global_scale", (1,), (), (1, 1)).take(range(1), slice(0, 1))
    return _nvfp4_recipe(nibbles, scales, 1 / float(of_all[0, 0]) if of_all.all() else 0.0, where)


def modelopt_recipe(parts: Parts, n_rows: int, n_cols: int) -> Recipe:
    """NVIDIA ModelOpt's NVFP4: `weight` U8 and the scale of all, `weight_scale_2`, as a factor. Raises as above."""
    nibbles = parts.array("weight", ["U8"], (n_rows, n_cols // 2))
    scales = parts.floats("weight_scale", (n_rows, n_cols // _NVFP4_WIDTH))
    of_all = parts.floats("weight_scale_2", (), (1,)).take(range(1), slice(0, 1))
    return _nvfp4_recipe(nibbles, scales, float(of_all[0, 0]), parts.where("weight"))


def _nvfp4_recipe(nibbles: Bytes, scales: FloatTable, scale_of_all: float, where: str) -> Recipe:
    values = MXFP4_VALUES / 2
    n_rows, n_cols = len(nibbles), 2 * nibbles.shape[1]
    if n_cols % _NVFP4_WIDTH:
        raise ModelFileError(f"{where}: {n_cols} columns are no whole groups of {_NVFP4_WIDTH}")

    def take(rows: Rows, cols: range) -> Bytes:
        whole = range(cols.start // _NVFP4_WIDTH, -(-cols.stop // _NVFP4_WIDTH))
        pairs = nibbles[rows_index(rows), 8 * whole.start : 8 * whole.stop]
        in_order = np.stack([pairs & 15, pairs >> 4], axis=-1)
        of_groups = scales.take(rows, slice(whole.start, whole.stop)) * np.float32(scale_of_all)
        numbers = values[in_order].reshape(len(rows), len(whole), _NVFP4_WIDTH) * of_groups[..., None]
        first = cols.start - _NVFP4_WIDTH * whole.start
        return np.ascontiguousarray(
            numbers.reshape(len(rows), _NVFP4_WIDTH * len(whole))[:, first : first + len(cols)]
        ).view(np.uint8)

    return Recipe(n_rows, n_cols, ElementType.F32, where, "nvfp4", take)


def check_whole_blocks(n_cols: int, where: str) -> None:
    """Raises ModelFileError where columns are no whole blocks of MXFP4."""
    if n_cols % BLOCK:
        raise ModelFileError(f"{where}: {n_cols} columns are no whole blocks of {BLOCK}")
