"""Numbers of a `.m` header: whole ones under Distributed Llama's keys, others under dllama's, as bits of a float32."""

from __future__ import annotations

import struct
from collections.abc import Mapping

import numpy as np

from dllama.formats.m_file import MKey
from dllama.model import shortest_float32

_LARGEST_INT = (1 << 31) - 1


def number(pairs: Mapping[MKey, int], key: MKey, bits_key: MKey, default: float) -> float:
    if bits_key in pairs:
        return float_of_bits(pairs[bits_key])
    return float(pairs.get(key, default))


def number_pair(key: MKey, bits_key: MKey, value: float) -> tuple[MKey, int]:
    """The pair that says `value`, which counts as the float32 that it is when it is used."""
    rounded = float(np.float32(value))
    if rounded.is_integer() and rounded <= _LARGEST_INT:
        return key, int(rounded)
    return bits_key, bits_of_float(value)


def bits_of_float(value: float) -> int:
    (bits,) = struct.unpack("<i", struct.pack("<f", value))
    return int(bits)


def float_of_bits(bits: int) -> float:
    """The shortest decimal number that has these bits: 1e-12 comes back as 1e-12."""
    return shortest_float32(np.int32(bits).view(np.float32))
