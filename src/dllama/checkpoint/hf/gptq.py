"""GPTQ (Frantar et al. 2022, arXiv:2210.17323) as AutoGPTQ and GPTQModel store it.

    qweight     I32 [K * bits / 32, N]      each column is a stream of bits, lowest first
    qzeros      I32 [G, N * bits / 32]      each row is one; in the format `gptq` 1 has been taken from each zero
    scales      F16 [G, N]
    g_idx       I32 [K]                     the group of each input; where it is in no order, weights were quantised in
                                            the order of how much they matter (desc_act)

for a matrix of N outputs and K inputs; the weights of a group of inputs share a scale and a zero. The 1 was taken from
all zeros of a word at once, as if it were one number, so it is added so; the format `gptq_v2` has zeros as they count.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from dllama.checkpoint.hf.floats import rows_index
from dllama.checkpoint.hf.grouped import (
    Grouped,
    Zeros,
    bytes_of_words,
    grouped_recipe,
    groups_in_order,
    unpacked,
)
from dllama.checkpoint.hf.parts import Parts, bits_of_words, group_width
from dllama.checkpoint.recipes import Bytes, Recipe, Rows

_KNOWN_BITS = (2, 3, 4, 8)

Words: TypeAlias = NDArray[np.uint32]


def gptq_recipe(parts: Parts, n_rows: int, n_cols: int, *, zeros_less_one: bool) -> Recipe:
    """Raises ModelFileError or UnsupportedModelError, naming file and tensor. Looks at zeros: they have one type where
    all are in the middle, and another where not."""
    bits = bits_of_words(parts, "qweight", 0, n_cols, _KNOWN_BITS)
    words = parts.array("qweight", ["I32"], (n_cols * bits // 32, n_rows))
    n_groups = parts.length("scales", 0)
    scales = parts.floats("scales", (n_groups, n_rows)).transposed
    packed = parts.array("qzeros", ["I32"], (n_groups, -(-n_rows * bits // 32))).view(np.uint32)
    if parts.has("g_idx"):
        width, group_of = groups_in_order(parts, "g_idx", n_cols, n_groups)
    else:
        width, group_of = group_width(parts, "scales", n_cols, n_groups), None

    def quants(rows: Rows, cols: range) -> Bytes:
        some = words[cols.start * bits // 32 : -(-cols.stop * bits // 32), rows_index(rows)]
        return unpacked(bytes_of_words(some.T), bits)

    def zeros(rows: Rows) -> Zeros:
        return _zeros(packed, bits, zeros_less_one)[:, rows_index(rows)].T.astype(np.int16)

    are_in_the_middle = _are_in_the_middle(packed, bits, zeros_less_one)
    return grouped_recipe(
        Grouped(
            n_rows=n_rows,
            n_cols=n_cols,
            bits=bits,
            quants=quants,
            scales=scales,
            width=width,
            zeros=1 << (bits - 1) if are_in_the_middle else zeros,
            group_of=group_of,
            where=parts.where("qweight"),
            stored_type=f"gptq int{bits}",
        )
    )


def _zeros(packed: Words, bits: int, less_one: bool) -> Bytes:
    """[G, N], as they count."""
    if bits == 3:  # which go across words
        return (unpacked(bytes_of_words(packed), bits) + np.uint8(less_one)) & np.uint8(7)
    return unpacked(bytes_of_words(packed + less_one * _in_each(bits)), bits)


def _are_in_the_middle(packed: Words, bits: int, less_one: bool) -> bool:
    middle = np.uint32(1 << (bits - 1))
    if bits == 3:
        return bool((_zeros(packed, bits, less_one) == middle).all())
    return bool((packed + less_one * _in_each(bits) == middle * _in_each(bits)).all())


def _in_each(bits: int) -> np.uint32:
    """A word with a 1 for each number of so many bits."""
    return np.uint32(0xFFFFFFFF // ((1 << bits) - 1))
