"""Blocks of random quants, of every blocked element type."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from dllama.dtypes import ElementType
from dllama.kernels.blocks import LAYOUTS, decode

_MEASURED = 256
"""Blocks whose elements tell what a scale of 1 amounts to."""


def random_blocks(
    random: np.random.Generator, dtype: ElementType, n: int, deviation: float
) -> NDArray[np.uint8]:
    """`[n, block_bytes]`: any quants, and scales of scales; one scale, such that elements deviate by `deviation`."""
    blocks = random.integers(0, 256, (n, dtype.block_bytes), np.uint8)
    some = blocks[:_MEASURED].copy()
    _set_scale(dtype, some, 1)
    _set_scale(dtype, blocks, deviation / float(decode(dtype, some, dtype.block).std()))
    return blocks


def _set_scale(dtype: ElementType, blocks: NDArray[np.uint8], scale: float) -> None:
    fields = blocks.view(LAYOUTS[dtype])
    if dtype is ElementType.MXFP4:
        fields["exponent"] = 128 + round(math.log2(scale))
        return
    fields["scale"] = scale
    if fields.dtype.names and "min" in fields.dtype.names:  # so that elements are about 0 in the mean
        middle = 15.5 if "fifth" in fields.dtype.names else 7.5
        fields["min"] = scale * middle * (1 if dtype in (ElementType.Q4K, ElementType.Q5K) else -1)
