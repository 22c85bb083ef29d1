"""Values of the types that dllama has no kernels for, to be stored as another type when a model is loaded.

The layouts are ggml's (src/ggml-common.h and the reference functions in src/ggml-quants.c of github.com/ggml-org/ggml),
and each step rounds to float32 as there, so that values are the same bits. Blocks of 256 but NVFP4's of 64. Those whose
values are tables of thousands of entries are in codebooks.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dllama.formats.gguf import codebooks
from dllama.formats.gguf.types import GgmlType

Bytes = NDArray[np.uint8]
Float32 = NDArray[np.float32]
Blocks = NDArray[np.void]
"""Blocks `[n]` of a structured type."""

_RUN_BYTES = 1 << 16  # what is made of one fits into the second cache
_E2M1_TWICE = np.array([0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12], np.float32)
_TWO_BITS = np.arange(0, 8, 2, dtype=np.uint8)[:, None]
_POWERS_OF_3 = np.array([1, 3, 9, 27, 81], np.uint8)[:, None]

_SCALE = ("scale", "<f2")
_LAYOUTS: Mapping[GgmlType, np.dtype[Any]] = MappingProxyType(
    {
        GgmlType.F64: np.dtype("<f8"),
        GgmlType.Q2_K: np.dtype([("scales", "u1", 16), ("quants", "u1", (2, 1, 32)), _SCALE, ("min", "<f2")]),
        GgmlType.Q3_K: np.dtype(
            [("high", "u1", 32), ("quants", "u1", (2, 1, 32)), ("scales", "u1", (3, 4)), _SCALE]
        ),
        GgmlType.TQ1_0: np.dtype(
            [("first", "u1", (1, 32)), ("second", "u1", (1, 16)), ("last", "u1", (1, 4)), _SCALE]
        ),
        GgmlType.TQ2_0: np.dtype([("quants", "u1", (2, 1, 32)), _SCALE]),
        GgmlType.NVFP4: np.dtype([("scales", "u1", 4), ("nibbles", "u1", (4, 8))]),
        **codebooks.LAYOUTS,
    }
)


def can_dequantize(ggml_type: GgmlType) -> bool:
    return ggml_type in _LAYOUTS


def dequantize(ggml_type: GgmlType, data: Bytes) -> Float32:
    """The values of whole blocks, float32 [n], of `data` uint8 [n_bytes] at any alignment. Only for types that
    `can_dequantize` names (asserted)."""
    assert len(data) % ggml_type.block_bytes == 0, (
        f"{len(data)} bytes are not whole blocks of {ggml_type.name}"
    )
    values = np.empty(len(data) // ggml_type.block_bytes * ggml_type.block, np.float32)
    step = max(_RUN_BYTES // ggml_type.block_bytes, 1)
    layout, decode = _LAYOUTS[ggml_type], _DECODERS[ggml_type]
    with np.errstate(over="ignore", invalid="ignore"):
        for begin in range(0, len(data) // ggml_type.block_bytes, step):
            run = data[begin * ggml_type.block_bytes : (begin + step) * ggml_type.block_bytes]
            blocks = np.ascontiguousarray(run).view(layout)
            at = begin * ggml_type.block
            values[at : at + len(blocks) * ggml_type.block] = decode(blocks).reshape(-1)
    return values


def _scale(blocks: Blocks, name: str = "scale") -> Float32:
    """`[n, 1]`."""
    return blocks[name].astype(np.float32)[:, None]


def _by_scale(scale: Float32, quants: NDArray[np.integer[Any]]) -> Float32:
    """`scale [n, R]` times each run of `quants`, of which there are R: `[n, R, width]`."""
    runs = quants.reshape(*scale.shape, -1)
    values: Float32 = scale[..., None] * runs.astype(np.float32)
    return values


def _q2_k(blocks: Blocks) -> Float32:
    """Two halves of 128 elements: byte j of the 32 of a half has elements j, j + 32, j + 64 and j + 96 of it. Each 16
    elements have a scale in the low nibble of their byte and a minimum in the high one."""
    quants = blocks["quants"] >> _TWO_BITS & 3
    scale = _scale(blocks) * (blocks["scales"] & 15).astype(np.float32)
    minimum = _scale(blocks, "min") * (blocks["scales"] >> 4).astype(np.float32)
    values: Float32 = _by_scale(scale, quants) - minimum[..., None]
    return values


def _q3_k(blocks: Blocks) -> Float32:
    """Two bits as in Q2_K; the third of element j of each eighth is bit (eighth) of byte j of `high`, and 4 less
    where it is not set. The 16 scales have four bits in 8 bytes (low nibbles first) and two in 4 bytes (byte k % 4,
    bits of k / 4), and stand for 32 less."""
    low = (blocks["quants"] >> _TWO_BITS & 3).reshape(-1, 8, 32)
    high = blocks["high"][:, None, :] >> np.arange(8, dtype=np.uint8)[:, None] & 1
    packed = blocks["scales"]  # [n, 3, 4]
    four = np.concatenate([packed[:, :2] & 15, packed[:, :2] >> 4], axis=1)  # [n, 4, 4]
    two = packed[:, 2:] >> _TWO_BITS & 3
    scale = _scale(blocks) * ((four | two << 4).reshape(-1, 16).astype(np.float32) - 32)
    return _by_scale(scale, (low | high << 2).astype(np.int8) - 4)


def _tq1_0(blocks: Blocks) -> Float32:
    """Digits 0, 1, 2 for -1, 0, 1, five to a byte, which is 256/243 of their number to the base 3, rounded up: digit k
    is what 3 times the low byte of (byte times 3 ** k) has above its low byte. 32 bytes, 16 bytes, and 4 bytes of four
    digits."""
    parts = [("first", 5), ("second", 5), ("last", 4)]
    digits = [(blocks[name] * _POWERS_OF_3[:n]).reshape(len(blocks), -1) for name, n in parts]
    quants = np.concatenate(digits, axis=1).astype(np.uint16) * 3 >> 8
    return _by_scale(_scale(blocks), quants.astype(np.int8) - 1)


def _tq2_0(blocks: Blocks) -> Float32:
    """0, 1, 2 for -1, 0, 1 in two bits, in the order of Q2_K."""
    return _by_scale(_scale(blocks), (blocks["quants"] >> _TWO_BITS & 3).astype(np.int8) - 1)


def _nvfp4(blocks: Blocks) -> Float32:
    """Four runs of 16 elements, eight low nibbles and then eight high ones, each with a scale in E4M3 without a sign
    (bias 7), of which 0x7F is 0 here. The values are those of E2M1, twice, and scales are halved for it."""
    scales = blocks["scales"]
    exponent, mantissa = (scales >> 3 & 15).astype(np.int32), (scales & 7).astype(np.float32)
    below = np.ldexp(mantissa, -10)
    normal = np.ldexp(mantissa + 8, exponent - 11)
    scale = np.where(exponent == 0, below, normal).astype(np.float32)
    scale[scales == 0x7F] = 0
    nibbles = np.concatenate([blocks["nibbles"] & 15, blocks["nibbles"] >> 4], axis=-1)
    values: Float32 = scale[..., None] * _E2M1_TWICE[nibbles]
    return values


def _f64(values: NDArray[Any]) -> Float32:
    return values.astype(np.float32)


_DECODERS: Mapping[GgmlType, Callable[[NDArray[Any]], Float32]] = MappingProxyType(
    {
        GgmlType.F64: _f64,
        GgmlType.Q2_K: _q2_k,
        GgmlType.Q3_K: _q3_k,
        GgmlType.TQ1_0: _tq1_0,
        GgmlType.TQ2_0: _tq2_0,
        GgmlType.NVFP4: _nvfp4,
        **codebooks.DECODERS,
    }
)
