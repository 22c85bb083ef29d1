"""Floating-point numbers of safetensors files: tables of them, whatever type they are stored as."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from dllama.checkpoint.recipes import Floats, Rows

Index: TypeAlias = slice | NDArray[np.int64]

_BYTE = np.arange(256, dtype=np.int32)
_BELOW_NORMAL = np.ldexp(np.float32(1), -9) * (_BYTE & 7)
_NORMAL = np.ldexp((8 + (_BYTE & 7)).astype(np.float32), (_BYTE >> 3 & 15) - 10)


def _e4m3() -> Floats:
    """A sign, four bits of exponent (bias 7), three of mantissa; no infinities, and NaN where the other bits are all
    set (arXiv:2209.05433)."""
    values = np.where(_BYTE >> 3 & 15, _NORMAL, _BELOW_NORMAL).astype(np.float32)
    values[(_BYTE & 127) == 127] = np.nan
    signed: Floats = np.where(_BYTE < 128, values, -values)
    return signed


def _e8m0() -> Floats:
    """Powers of two (the OCP's microscaling formats, v1.0)."""
    values: Floats = np.ldexp(np.float32(1), np.minimum(_BYTE, 254) - 127)
    values[255] = np.nan
    return values


E4M3_VALUES, E8M0_VALUES = _e4m3(), _e8m0()
"""What each byte stands for, float32 [256]."""


@dataclasses.dataclass(frozen=True)
class FloatTable:
    """Numbers [n, m] as they lie in a file, and `dtype`, the name of their type there."""

    data: NDArray[Any]
    dtype: str

    @property
    def transposed(self) -> FloatTable:
        return FloatTable(self.data.T, self.dtype)

    def take(self, rows: Rows, cols: Index) -> Floats:
        """float32 [rows, cols], a copy."""
        return _DECODERS[self.dtype](self.data[rows_index(rows)][:, cols])


def rows_index(rows: Rows) -> Index:
    """What NumPy takes: a range makes a view, not a copy."""
    return slice(rows.start, rows.stop, rows.step) if isinstance(rows, range) else rows


_NUMPY_TYPES: Mapping[str, type[np.generic]] = MappingProxyType(
    {
        "F32": np.float32,
        "F16": np.float16,
        "BF16": np.uint16,
        "F8_E4M3": np.uint8,
        "F8_E8M0": np.uint8,
        "I64": np.int64,
        "I32": np.int32,
        "U32": np.uint32,
        "I8": np.int8,
        "U8": np.uint8,
    }
)
"""What the elements of each type are viewed as."""

_DECODERS: Mapping[str, Callable[[NDArray[Any]], Floats]] = MappingProxyType(
    {
        "F32": lambda data: data.astype(np.float32),
        "F16": lambda data: data.astype(np.float32),
        "BF16": lambda data: (data.astype(np.uint32) << 16).view(np.float32),
        "F8_E4M3": lambda data: E4M3_VALUES[data],
        "F8_E8M0": lambda data: E8M0_VALUES[data],
    }
)

FLOATS = tuple(_DECODERS)
"""Types that a FloatTable may have."""


def numpy_type(dtype: str) -> type[np.generic]:
    return _NUMPY_TYPES[dtype]
