"""Weights as they lie in files, of every element type: encoded where the oracle can, else random blocks."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from dllama.dtypes import ElementType, row_bytes
from dllama.kernels import oracle

Bytes = NDArray[np.uint8]
Float32 = NDArray[np.float32]

PLAIN = [ElementType.F16, ElementType.F32]
BLOCKED = [dtype for dtype in ElementType if dtype.is_blocked]
NATIVE = [dtype for dtype in BLOCKED if dtype not in (ElementType.Q40, ElementType.Q80)]
"""Types that only files of others have; nothing here encodes them."""

FLOAT16_SCALES: Mapping[ElementType, tuple[int, ...]] = MappingProxyType(
    {
        ElementType.Q40: (0,),
        ElementType.Q41: (0, 2),
        ElementType.Q50: (0,),
        ElementType.Q51: (0, 2),
        ElementType.Q80: (0,),
        ElementType.Q4K: (0, 2),
        ElementType.Q5K: (0, 2),
        ElementType.Q6K: (208,),
        ElementType.IQ4NL: (0,),
        ElementType.IQ4XS: (0,),
    }
)
"""Where a block has float16 numbers."""

_BYTES_BEFORE_QUANTS: Mapping[ElementType, int] = MappingProxyType(
    {ElementType.Q41: 4, ElementType.Q51: 4, ElementType.Q4K: 16, ElementType.Q5K: 16}
)


def stored(rng: np.random.Generator, dtype: ElementType, n_out: int, n_in: int) -> Bytes:
    """A matrix `[n_out, row_bytes(dtype, n_in)]`, its elements up to about 1 (MXFP4: within 2 ** -6 to 2 ** 6)."""
    if dtype not in NATIVE:
        return oracle.encode(dtype, rng.standard_normal((n_out, n_in)).astype(np.float32))
    blocks = random_blocks(rng, dtype, n_out * n_in // dtype.block)
    return blocks.reshape(n_out, row_bytes(dtype, n_in))


def random_blocks(rng: np.random.Generator, dtype: ElementType, n: int) -> Bytes:
    """`[n, block_bytes]`: any bytes, with scales of either sign that are numbers."""
    blocks = rng.integers(0, 256, (n, dtype.block_bytes), np.uint8)
    for at in FLOAT16_SCALES.get(dtype, ()):
        scales = rng.standard_normal(n).astype(np.float32) / 100
        blocks[:, at : at + 2] = scales.astype("<f2")[:, None].view(np.uint8)
    if dtype is ElementType.MXFP4:
        blocks[:, 0] = rng.integers(121, 131, n)
    return blocks


def parts(dtype: ElementType, data: Bytes, n_in: int) -> tuple[Float32, Float32]:
    """The products of scales and quants, and the minimums: both `[n_out, n_in]`, their sum the weights."""
    weights = oracle.decode(dtype, data, n_in)
    if dtype not in _BYTES_BEFORE_QUANTS:
        return weights, np.zeros_like(weights)
    lowest = data.reshape(-1, dtype.block_bytes).copy()
    lowest[:, _BYTES_BEFORE_QUANTS[dtype] :] = 0
    minimums = oracle.decode(dtype, lowest.reshape(data.shape), n_in)
    return weights - minimums, minimums
