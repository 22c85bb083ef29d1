"""AWQ (Lin et al. 2023, arXiv:2306.00978) as AutoAWQ's version `gemm` stores it.

    qweight     I32 [K, N / 8]      eight outputs in a word, from the lowest bits on: 0 2 4 6 1 3 5 7
    qzeros      I32 [G, N / 8]      the same
    scales      F16 [G, N]

for a matrix of N outputs and K inputs, of which K / G share a scale and a zero.
"""

from __future__ import annotations

import numpy as np

from dllama.checkpoint.hf.grouped import Grouped, Zeros, bytes_of_words, grouped_recipe
from dllama.checkpoint.hf.parts import Parts, group_width
from dllama.checkpoint.recipes import Bytes, Recipe, Rows
from dllama.errors import ModelFileError

_PLACES = np.array([0, 4, 1, 5, 2, 6, 3, 7])
"""Where in a word each output is."""


def awq_recipe(parts: Parts, n_rows: int, n_cols: int) -> Recipe:
    """Raises ModelFileError or UnsupportedModelError, naming file and tensor."""
    if n_rows % 8:
        raise ModelFileError(f"{parts.where('qweight')}: {n_rows} outputs are no whole words of 8")
    words = parts.array("qweight", ["I32"], (n_cols, n_rows // 8))
    n_groups = parts.length("scales", 0)
    scales = parts.floats("scales", (n_groups, n_rows)).transposed
    zero_words = parts.array("qzeros", ["I32"], (n_groups, n_rows // 8))

    def quants(rows: Rows, cols: range) -> Bytes:
        first, last = _first_and_last(rows)
        some = words[cols.start : cols.stop, first // 8 : last // 8 + 1]
        return _outputs(bytes_of_words(some), np.asarray(rows, np.int64) - first // 8 * 8)

    def zeros(rows: Rows) -> Zeros:
        return _outputs(bytes_of_words(zero_words), np.asarray(rows, np.int64)).astype(np.int16)

    return grouped_recipe(
        Grouped(
            n_rows=n_rows,
            n_cols=n_cols,
            bits=4,
            quants=quants,
            scales=scales,
            width=group_width(parts, "scales", n_cols, n_groups),
            zeros=zeros,
            where=parts.where("qweight"),
            stored_type="awq int4",
        )
    )


def _outputs(packed: Bytes, outputs: np.ndarray[tuple[int, ...], np.dtype[np.int64]]) -> Bytes:
    """[outputs, K], of bytes [K, 4 n] of n words."""
    word, within = np.divmod(outputs, 8)
    place = 8 * word + _PLACES[within]
    halves = np.ascontiguousarray(packed[:, place // 2].T)
    halves >>= (4 * (place % 2)).astype(np.uint8)[:, None]
    halves &= 15
    return halves


def _first_and_last(rows: Rows) -> tuple[int, int]:
    if not len(rows):
        return 0, 0
    return (rows[0], rows[-1]) if isinstance(rows, range) else (int(rows.min()), int(rows.max()))
