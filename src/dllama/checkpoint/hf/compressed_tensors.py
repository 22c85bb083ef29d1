"""compressed-tensors (what llm-compressor writes): integers of 2 to 8 bits.

    weight_packed       I32 [N, K * bits / 32]      each row is a stream of bits, lowest first, 2**(bits - 1) added to
    all weight              I8 [N, K]                   or a byte for each
    weight_scale        [N, G], [N, 1] or [1]
    weight_zero_point   I32 [N * bits / 32, G]      packed as weights are, along N; or I8 [N, G]; where weights are
                                                    asymmetric
    weight_g_idx        I32 [K]                     the group of each input, where they are in no order

for a matrix of N outputs and K inputs. Activations stay as they are, whatever the scheme would make of them.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from dllama.checkpoint.hf.floats import FloatTable, rows_index
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

_KNOWN_BITS = (2, 3, 4, 5, 6, 8)
_SIGN = np.uint8(0x80)


def packed_recipe(parts: Parts, n_rows: int, n_cols: int) -> Recipe:
    """Of `weight_packed`. Raises ModelFileError or UnsupportedModelError, naming file and tensor."""
    bits = bits_of_words(parts, "weight_packed", -1, n_cols, _KNOWN_BITS)
    words = parts.array("weight_packed", ["I32"], (n_rows, -(-n_cols * bits // 32)))

    def quants(rows: Rows, cols: range) -> Bytes:
        some = words[rows_index(rows), cols.start * bits // 32 : -(-cols.stop * bits // 32)]
        return unpacked(bytes_of_words(some), bits)[:, : len(cols)]

    return _recipe(parts, n_rows, n_cols, bits, quants, parts.where("weight_packed"))


def bytes_recipe(parts: Parts, n_rows: int, n_cols: int) -> Recipe:
    """Of `weight` in I8. Raises as packed_recipe does."""
    data = parts.array("weight", ["I8"], (n_rows, n_cols)).view(np.uint8)

    def quants(rows: Rows, cols: range) -> Bytes:
        return data[rows_index(rows), cols.start : cols.stop] ^ _SIGN

    return _recipe(parts, n_rows, n_cols, 8, quants, parts.where("weight"))


def _recipe(
    parts: Parts, n_rows: int, n_cols: int, bits: int, quants: Callable[[Rows, range], Bytes], where: str
) -> Recipe:
    scales = _scales(parts, n_rows)
    n_groups = scales.data.shape[1]
    group_of = None
    if parts.has("weight_g_idx"):
        group_of = groups_in_order(parts, "weight_g_idx", n_cols, n_groups)[1]
    return grouped_recipe(
        Grouped(
            n_rows=n_rows,
            n_cols=n_cols,
            bits=bits,
            quants=quants,
            scales=scales,
            width=group_width(parts, "weight_scale", n_cols, n_groups),
            zeros=_zeros(parts, n_rows, n_groups, bits),
            group_of=group_of,
            where=where,
            stored_type=f"int{bits}",
        )
    )


def _scales(parts: Parts, n_rows: int) -> FloatTable:
    """[n_rows, n_groups]; one for all is repeated."""
    n_groups = max(parts.length("weight_scale", 1), 1)
    table = parts.floats("weight_scale", (n_rows, n_groups), (n_rows,), (1,), ())
    return FloatTable(np.broadcast_to(table.data, (n_rows, n_groups)), table.dtype)


def _zeros(parts: Parts, n_rows: int, n_groups: int, bits: int) -> int | Callable[[Rows], Zeros]:
    middle = 1 << (bits - 1)
    if not parts.has("weight_zero_point"):
        return middle
    if parts.tensor("weight_zero_point").dtype == "I8":
        plain = parts.array("weight_zero_point", ["I8"], (n_rows, n_groups), (n_rows,), (1,))
        table = np.broadcast_to(plain.reshape(len(plain), -1), (n_rows, n_groups))
        return lambda rows: table[rows_index(rows)].astype(np.int16) + np.int16(middle)
    words = parts.array("weight_zero_point", ["I32"], (-(-n_rows * bits // 32), n_groups))

    def zeros(rows: Rows) -> Zeros:
        return unpacked(bytes_of_words(words.T), bits)[:, rows_index(rows)].T.astype(np.int16)

    return zeros
