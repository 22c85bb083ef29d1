"""What the stored elements of every type stand for, in NumPy (docs/formats.md has the layouts, which are ggml's).

Each step rounds to float32 in the order in which ggml's own reference does it, so that values are the same bits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dllama.dtypes import ElementType, row_bytes

Bytes = NDArray[np.uint8]
Quants = NDArray[np.integer[Any]]
Float32 = NDArray[np.float32]
Blocks = NDArray[np.void]
"""Blocks `[T, n_blocks]` of a structured type."""

IQ4_VALUES = np.array([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.float32)
"""What the four bits of IQ4NL and IQ4XS stand for."""
MXFP4_VALUES = np.array([0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12], np.float32)
"""What the four bits of MXFP4 stand for, twice the value of E2M1; scales are halved for it."""

_SCALE, _MIN, _NIBBLES = ("scale", "<f2"), ("min", "<f2"), ("nibbles", "u1", 16)
LAYOUTS: Mapping[ElementType, np.dtype[np.void]] = MappingProxyType(
    {
        ElementType.Q40: np.dtype([_SCALE, _NIBBLES]),
        ElementType.Q41: np.dtype([_SCALE, _MIN, _NIBBLES]),
        ElementType.Q50: np.dtype([_SCALE, ("fifth", "u1", 4), _NIBBLES]),
        ElementType.Q51: np.dtype([_SCALE, _MIN, ("fifth", "u1", 4), _NIBBLES]),
        ElementType.Q80: np.dtype([_SCALE, ("quants", "i1", 32)]),
        ElementType.Q4K: np.dtype([_SCALE, _MIN, ("scales", "u1", 12), ("nibbles", "u1", (4, 32))]),
        ElementType.Q5K: np.dtype(
            [_SCALE, _MIN, ("scales", "u1", 12), ("fifth", "u1", 32), ("nibbles", "u1", (4, 32))]
        ),
        ElementType.Q6K: np.dtype(
            [("nibbles", "u1", (2, 2, 32)), ("high", "u1", (2, 32)), ("scales", "i1", 16), _SCALE]
        ),
        ElementType.IQ4NL: np.dtype([_SCALE, _NIBBLES]),
        ElementType.IQ4XS: np.dtype(
            [_SCALE, ("scales_high", "<u2"), ("scales_low", "u1", 4), ("nibbles", "u1", (8, 16))]
        ),
        ElementType.MXFP4: np.dtype([("exponent", "u1"), _NIBBLES]),
    }
)
"""The fields of a block of each blocked type. `scale` and `min` are float16."""


def decode(dtype: ElementType, data: Bytes, n: int) -> Float32:
    """Rows `data [T, at least row_bytes(dtype, n)]` as they lie in a file: float32 `[T, n]`, exact. Scales of infinity
    or NaN give what float32 makes of them."""
    data = np.ascontiguousarray(data[:, : row_bytes(dtype, n)])
    if dtype is ElementType.F32:
        return data.view(np.float32)
    if dtype is ElementType.F16:
        return data.view(np.float16).astype(np.float32)
    if dtype is ElementType.BF16:
        return (data.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        return _DECODERS[dtype](data.view(LAYOUTS[dtype])).reshape(len(data), n)


def two_scales(scales: Bytes) -> tuple[Bytes, Bytes]:
    """The eight scales and the eight minimums, six bits each, in the 12 bytes of Q4K and Q5K: `[..., 8]` both.

    Bytes 0 to 3 have the first four scales, 4 to 7 the first four minimums; their two high bits belong to the last
    four, whose low bits are the nibbles of bytes 8 to 11: scales low, minimums high.
    """
    first, second, last = scales[..., :4], scales[..., 4:8], scales[..., 8:]
    return (
        np.concatenate([first & 63, (last & 15) | (first >> 6) << 4], axis=-1),
        np.concatenate([second & 63, last >> 4 | (second >> 6) << 4], axis=-1),
    )


def in_halves(nibbles: Bytes) -> Bytes:
    """The low nibbles of `[..., B]` bytes, then the high ones: `[..., 2B]`."""
    return np.concatenate([nibbles & 15, nibbles >> 4], axis=-1)


def _scale(blocks: Blocks, name: str = "scale") -> Float32:
    """`[..., 1]`."""
    return blocks[name].astype(np.float32)[..., None]


def _fifth_bits(blocks: Blocks) -> Quants:
    """Bit j of the four bytes is the fifth of element j: 16 or 0, `[..., 32]`."""
    return np.unpackbits(blocks["fifth"], axis=-1, bitorder="little") << 4


def _q40(blocks: Blocks) -> Float32:
    return _scale(blocks) * (in_halves(blocks["nibbles"]).astype(np.float32) - 8)


def _q41(blocks: Blocks) -> Float32:
    return _scale(blocks) * in_halves(blocks["nibbles"]).astype(np.float32) + _scale(blocks, "min")


def _q50(blocks: Blocks) -> Float32:
    quants = in_halves(blocks["nibbles"]) | _fifth_bits(blocks)
    return _scale(blocks) * (quants.astype(np.float32) - 16)


def _q51(blocks: Blocks) -> Float32:
    quants = in_halves(blocks["nibbles"]) | _fifth_bits(blocks)
    return _scale(blocks) * quants.astype(np.float32) + _scale(blocks, "min")


def _q80(blocks: Blocks) -> Float32:
    return _scale(blocks) * blocks["quants"].astype(np.float32)


def scaled_runs(dtype: ElementType, heads: Blocks, quants: Quants, first: int = 0) -> Float32:
    """`quants [..., n, 32]` of the runs of 32 from `first` on of blocks of 256: their values, of the same shape.

    `heads` has the fields of the blocks that are not quants. A value is what the quant means times the run's scale (of
    which Q6K's runs have two), and the run's minimum less.
    """
    n = quants.shape[-2]
    scales, minimums = _RUN_SCALES[dtype](heads)
    n_parts = scales.shape[-1] // 8
    scale = scales[..., first * n_parts : (first + n) * n_parts, None]
    parts = _meant(dtype, quants).reshape(*quants.shape[:-2], n * n_parts, 32 // n_parts)
    values = (scale * parts).reshape(quants.shape)
    return values if minimums is None else values - minimums[..., first : first + n, None]


def _meant(dtype: ElementType, quants: Quants) -> Float32:
    if dtype is ElementType.IQ4XS:
        return IQ4_VALUES[quants]
    return quants.astype(np.float32) - (32 if dtype is ElementType.Q6K else 0)


def _scales_and_minimums(heads: Blocks) -> tuple[Float32, Float32]:
    """Those of Q4K and Q5K, `[..., 8]` both."""
    scales, minimums = two_scales(heads["scales"])
    return _scale(heads) * scales.astype(np.float32), _scale(heads, "min") * minimums.astype(np.float32)


def _q6k_scales(heads: Blocks) -> tuple[Float32, None]:
    """`[..., 16]`."""
    return _scale(heads) * heads["scales"].astype(np.float32), None


def _iq4xs_scales(heads: Blocks) -> tuple[Float32, None]:
    """Each run of 32 has a scale of six bits, less 32: four of them nibbles in order, two from `scales_high`."""
    low = np.stack([heads["scales_low"] & 15, heads["scales_low"] >> 4], axis=-1).reshape(*heads.shape, 8)
    high = heads["scales_high"][..., None] >> np.arange(0, 16, 2, dtype=np.uint16) & 3
    return _scale(heads) * ((low | high << 4).astype(np.float32) - 32), None


_RUN_SCALES: Mapping[ElementType, Callable[[Blocks], tuple[Float32, Float32 | None]]] = MappingProxyType(
    {
        ElementType.Q4K: _scales_and_minimums,
        ElementType.Q5K: _scales_and_minimums,
        ElementType.Q6K: _q6k_scales,
        ElementType.IQ4XS: _iq4xs_scales,
    }
)


def _q4k(blocks: Blocks) -> Float32:
    nibbles = in_halves(blocks["nibbles"])  # [..., 4, 64]
    return scaled_runs(ElementType.Q4K, blocks, nibbles.reshape(*blocks.shape, 8, 32))


def _q5k(blocks: Blocks) -> Float32:
    nibbles = in_halves(blocks["nibbles"]).reshape(*blocks.shape, 8, 32)
    fifth = blocks["fifth"][..., None, :] >> np.arange(8, dtype=np.uint8)[:, None] & 1
    return scaled_runs(ElementType.Q5K, blocks, nibbles | fifth << 4)


def _q6k(blocks: Blocks) -> Float32:
    """Elements are in two halves of 128; in each, four runs of 32 share 32 bytes of high bits, two bits a run."""
    nibbles = blocks["nibbles"]  # [..., half, 2, 32]: runs 0 and 1 are the low nibbles, 2 and 3 the high ones
    low = np.concatenate([nibbles & 15, nibbles >> 4], axis=-2)
    high = blocks["high"][..., None, :] >> np.arange(0, 8, 2, dtype=np.uint8)[:, None] & 3
    return scaled_runs(ElementType.Q6K, blocks, (low | high << 4).reshape(*blocks.shape, 8, 32))


def _iq4nl(blocks: Blocks) -> Float32:
    return _scale(blocks) * IQ4_VALUES[in_halves(blocks["nibbles"])]


def _iq4xs(blocks: Blocks) -> Float32:
    return scaled_runs(ElementType.IQ4XS, blocks, in_halves(blocks["nibbles"]))


def _mxfp4(blocks: Blocks) -> Float32:
    """The exponent e stands for 2 ** (e - 127), half of which is below float32's normal numbers for 0 and 1."""
    exponent = blocks["exponent"].astype(np.int32)
    scale = np.ldexp(np.float32(1), exponent - 128)
    return scale[..., None] * MXFP4_VALUES[in_halves(blocks["nibbles"])]


_DECODERS: Mapping[ElementType, Callable[[Blocks], Float32]] = MappingProxyType(
    {
        ElementType.Q40: _q40,
        ElementType.Q41: _q41,
        ElementType.Q50: _q50,
        ElementType.Q51: _q51,
        ElementType.Q80: _q80,
        ElementType.Q4K: _q4k,
        ElementType.Q5K: _q5k,
        ElementType.Q6K: _q6k,
        ElementType.IQ4NL: _iq4nl,
        ElementType.IQ4XS: _iq4xs,
        ElementType.MXFP4: _mxfp4,
    }
)
