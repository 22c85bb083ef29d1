"""Values of IQ1, IQ2 and IQ3: what a block stores are places in a table of 4 or 8 magnitudes (src/ggml-common.h and
src/ggml-quants.c of github.com/ggml-org/ggml). The tables are in codebooks.npz, which tools/make_codebooks.py makes.

Blocks of 256, in eight groups of 32. IQ2 and IQ3 have signs beside the places: a byte, whose bit j is set where element
j is negative, or seven bits of it, as the number of negative elements is even then.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dllama.formats.gguf.types import GgmlType

Float32 = NDArray[np.float32]
Integers = NDArray[np.integer[Any]]
Entries = NDArray[np.unsignedinteger[Any]]
Blocks = NDArray[np.void]
"""Blocks `[n]` of a structured type."""

TABLES = Path(__file__).with_name("codebooks.npz")

_EIGHTH = np.float32(0.125)  # what IQ1 adds to, or takes from, each of its -1, 0 and 1
_SEVENS = np.arange(0, 28, 7, dtype=np.uint32)
_THREES = np.arange(0, 12, 3, dtype=np.uint16)
_TWOS = np.arange(0, 8, 2, dtype=np.uint8)
_ONES = np.arange(8, dtype=np.uint8)

_SCALE = ("scale", "<f2")
_PLACES = ("places", "u1", (8, 4))
LAYOUTS: Mapping[GgmlType, np.dtype[Any]] = MappingProxyType(
    {
        GgmlType.IQ2_XXS: np.dtype([_SCALE, ("groups", [("places", "u1", 4), ("signs", "<u4")], 8)]),
        GgmlType.IQ2_XS: np.dtype([_SCALE, ("places", "<u2", (8, 4)), ("scales", "u1", 8)]),
        GgmlType.IQ2_S: np.dtype([_SCALE, _PLACES, ("signs", "u1", (8, 4)), ("high", "u1", 8), ("scales", "u1", 8)]),
        GgmlType.IQ3_XXS: np.dtype([_SCALE, ("places", "u1", (8, 8)), ("signs", "<u4", 8)]),
        GgmlType.IQ3_S: np.dtype(
            [_SCALE, ("places", "u1", (8, 8)), ("high", "u1", 8), ("signs", "u1", (8, 4)), ("scales", "u1", 4)]
        ),
        GgmlType.IQ1_S: np.dtype([_SCALE, _PLACES, ("high", "<u2", 8)]),
        GgmlType.IQ1_M: np.dtype([_PLACES, ("high", "u1", (8, 2)), ("scales", "<u2", 4)]),
    }
)  # fmt: skip


@functools.cache
def _table(name: str) -> Entries:
    """The 4 or 8 magnitudes of each entry."""
    with np.load(TABLES) as tables:
        return _as_entries(tables[name])


@functools.cache
def _eighths() -> Entries:
    """IQ1's table in eighths: 1 is added to each, and taken from each in the second half."""
    with np.load(TABLES) as tables:
        return _as_entries(np.concatenate([8 * tables["iq1"] + 1, 8 * tables["iq1"] - 1]))


@functools.cache
def _signs_of_bytes() -> Entries:
    """1 or -1 for each bit of a byte."""
    bits = np.arange(256, dtype=np.uint8)[:, None] >> _ONES & 1
    return _as_entries(1 - 2 * bits.astype(np.int8))


def _as_entries(table: NDArray[np.int8]) -> Entries:
    """Each row of 4 or 8 as one number: decoding is twice as fast as with rows of floats."""
    return np.ascontiguousarray(table, np.int8).view(np.dtype(f"u{table.shape[1]}"))[:, 0]


def _look_up(table: Entries, places: Integers) -> NDArray[np.int8]:
    """The entries at `places [n, ...]`, one after another: `[n, elements]`."""
    return table[places].reshape(len(places), -1).view(np.int8)


@functools.cache
def _whole_bytes() -> Integers:
    """Each seven bits with the eighth, `[128]`."""
    seven_bits = np.arange(128, dtype=np.uint8)
    whole: Integers = seven_bits | np.unpackbits(seven_bits[:, None], axis=1).sum(axis=1, dtype=np.uint8) << 7
    return whole


def _signed(magnitudes: NDArray[np.int8], signs: Integers) -> NDArray[np.int8]:
    """`magnitudes [n, 256]` by `signs [n, 8, 4]`, a byte for 8 elements."""
    return magnitudes * _look_up(_signs_of_bytes(), signs)


def _whole_signs(seven_bits: Integers) -> Integers:
    """With the eighth that makes their number even."""
    return _whole_bytes()[seven_bits]


def _by_scale(scale: Float32, values: NDArray[np.int8]) -> Float32:
    """`scale [n, R]` times R runs of `values [n, 256]`: `[n, R, 256 / R]`."""
    product: Float32 = scale[..., None] * values.reshape(*scale.shape, -1).astype(np.float32)
    return product


def _half_scale(blocks: Blocks, scales: Integers, step: float) -> Float32:
    """The block's scale times (1/2 + scale of a run) times `step`."""
    scale: Float32 = blocks["scale"].astype(np.float32)[:, None] * (
        np.float32(0.5) + scales.astype(np.float32)
    )
    return scale * np.float32(step)


def _nibbles(scales: NDArray[np.uint8]) -> Integers:
    """`[n, k]` bytes as `[n, 2k]`, the low nibble first."""
    return np.stack([scales & 15, scales >> 4], axis=-1).reshape(len(scales), -1)


def _iq2_xxs(blocks: Blocks) -> Float32:
    groups = blocks["groups"]
    signs = _whole_signs(groups["signs"][..., None] >> _SEVENS & 127)
    scale = _half_scale(blocks, groups["signs"] >> 28, 0.25)
    return _by_scale(scale, _signed(_look_up(_table("iq2_xxs"), groups["places"]), signs))


def _iq2_xs(blocks: Blocks) -> Float32:
    """A place has nine bits and its signs seven; each 16 elements have a scale."""
    places = blocks["places"]
    values = _signed(_look_up(_table("iq2_xs"), places & 511), _whole_signs(places >> 9))
    return _by_scale(_half_scale(blocks, _nibbles(blocks["scales"]), 0.25), values)


def _iq2_s(blocks: Blocks) -> Float32:
    places = blocks["places"] | (blocks["high"][..., None] >> _TWOS & 3).astype(np.uint16) << 8
    values = _signed(_look_up(_table("iq2_s"), places), blocks["signs"])
    return _by_scale(_half_scale(blocks, _nibbles(blocks["scales"]), 0.25), values)


def _iq3_xxs(blocks: Blocks) -> Float32:
    signs = _whole_signs(blocks["signs"][..., None] >> _SEVENS & 127)
    scale = _half_scale(blocks, blocks["signs"] >> 28, 0.5)
    return _by_scale(scale, _signed(_look_up(_table("iq3_xxs"), blocks["places"]), signs))


def _iq3_s(blocks: Blocks) -> Float32:
    places = blocks["places"] | (blocks["high"][..., None] >> _ONES & 1).astype(np.uint16) << 8
    scale = blocks["scale"].astype(np.float32)[:, None] * (
        1 + 2 * _nibbles(blocks["scales"]).astype(np.float32)
    )
    return _by_scale(scale, _signed(_look_up(_table("iq3_s"), places), blocks["signs"]))


def _iq1_s(blocks: Blocks) -> Float32:
    """The 16 bits of a group: four times three high bits of a place, three of the scale, the sign of what is added."""
    high = blocks["high"]
    places = blocks["places"] | (high[..., None] >> _THREES & 7) << 8 | (high >> 15 << 11)[..., None]
    scale = blocks["scale"].astype(np.float32)[:, None] * (2 * (high >> 12 & 7).astype(np.float32) + 1)
    return _by_scale(scale * _EIGHTH, _look_up(_eighths(), places))


def _iq1_m(blocks: Blocks) -> Float32:
    """A nibble for each place: three high bits, and the sign of what is added. The high nibbles of the four `scales`
    are the block's scale, the last the highest; their other bits are four scales, for 16 elements each."""
    packed = blocks["scales"]
    bits = packed >> 12 << np.arange(0, 16, 4, dtype=np.uint16)
    whole = np.bitwise_or.reduce(bits, axis=-1).astype(np.uint16).view(np.float16).astype(np.float32)
    scale = whole[:, None] * (2 * (packed[..., None] >> _THREES & 7).astype(np.float32) + 1).reshape(-1, 16)
    high = np.stack([blocks["high"] & 15, blocks["high"] >> 4], axis=-1).reshape(-1, 8, 4)
    places = blocks["places"] | high.astype(np.uint16) << 8
    return _by_scale(scale * _EIGHTH, _look_up(_eighths(), places))


DECODERS: Mapping[GgmlType, Callable[[Blocks], Float32]] = MappingProxyType(
    {
        GgmlType.IQ2_XXS: _iq2_xxs,
        GgmlType.IQ2_XS: _iq2_xs,
        GgmlType.IQ2_S: _iq2_s,
        GgmlType.IQ3_XXS: _iq3_xxs,
        GgmlType.IQ3_S: _iq3_s,
        GgmlType.IQ1_S: _iq1_s,
        GgmlType.IQ1_M: _iq1_m,
    }
)
