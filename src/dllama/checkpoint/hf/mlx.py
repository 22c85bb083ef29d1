"""MLX's quantised matrices (`mlx.core.quantize`).

    weight      U32 [N, K * bits / 32]      each row is a stream of bits, lowest first
    scales      [N, G]
    biases      [N, G]                      the smallest of each group

for a matrix of N outputs and K inputs: a weight is q scale + bias. Of the mode `mxfp4` scales are U8, without biases.
"""

from __future__ import annotations

import numpy as np

from dllama.checkpoint.hf.floats import rows_index
from dllama.checkpoint.hf.grouped import Grouped, bytes_of_words, grouped_recipe, unpacked
from dllama.checkpoint.hf.mxfp4 import check_whole_blocks, mxfp4_recipe
from dllama.checkpoint.hf.parts import Parts, bits_of_words, group_width
from dllama.checkpoint.recipes import Bytes, Recipe, Rows
from dllama.dtypes import BLOCK

_KNOWN_BITS = (2, 3, 4, 5, 6, 8)


def mlx_recipe(parts: Parts, n_rows: int, n_cols: int) -> Recipe:
    """Raises ModelFileError or UnsupportedModelError, naming file and tensor."""
    where = parts.where("weight")
    bits = bits_of_words(parts, "weight", -1, n_cols, _KNOWN_BITS)
    words = parts.array("weight", ["U32"], (n_rows, n_cols * bits // 32))
    if parts.tensor("scales").dtype == "U8" and bits == 4:
        check_whole_blocks(n_cols, where)
        exponents = parts.array("scales", ["U8"], (n_rows, n_cols // BLOCK))
        return mxfp4_recipe(words.view(np.uint8), exponents, where)
    n_groups = parts.length("scales", -1)

    def quants(rows: Rows, cols: range) -> Bytes:
        some = words[rows_index(rows), cols.start * bits // 32 : -(-cols.stop * bits // 32)]
        return unpacked(bytes_of_words(some), bits)

    return grouped_recipe(
        Grouped(
            n_rows=n_rows,
            n_cols=n_cols,
            bits=bits,
            quants=quants,
            scales=parts.floats("scales", (n_rows, n_groups)),
            width=group_width(parts, "scales", n_cols, n_groups),
            minimums=parts.floats("biases", (n_rows, n_groups)),
            where=where,
            stored_type=f"mlx {bits}-bit",
        )
    )
