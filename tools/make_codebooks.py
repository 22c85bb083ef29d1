"""Makes src/dllama/formats/gguf/codebooks.npz, the tables of GGUF's types IQ1, IQ2 and IQ3.

    .venv/bin/python tools/make_codebooks.py

The tables are facts of the format (src/ggml-common.h of github.com/ggml-org/ggml) that no rule gives. They are found by
asking the gguf package what blocks stand for, one for each entry: a scale of 1, no signs, that entry first.
"""

from __future__ import annotations

import struct

import gguf
import numpy as np
from numpy.typing import NDArray

from dllama.formats.gguf import GgmlType
from dllama.formats.gguf.codebooks import TABLES


def block(ggml_type: GgmlType, entry: int) -> bytes:
    """Beginning with the entry, whose low byte and high bits are where the type has them; zeros: the smallest scale."""
    low, high = entry & 255, entry >> 8
    if ggml_type is GgmlType.IQ2_XS:
        start = struct.pack("<eH", 8, entry)
    elif ggml_type is GgmlType.IQ2_S:
        start = struct.pack("<eB63xB", 8, low, high)
    elif ggml_type is GgmlType.IQ3_S:
        start = struct.pack("<eB63xB", 1, low, high)
    elif ggml_type is GgmlType.IQ1_S:
        start = struct.pack("<eB31xH", 1, low, high)
    else:
        start = struct.pack("<eB", 8 if ggml_type is GgmlType.IQ2_XXS else 4, low)
    return start.ljust(ggml_type.block_bytes, b"\0")


def table(ggml_type: GgmlType, n_entries: int, width: int) -> NDArray[np.int8]:
    blocks = np.frombuffer(b"".join(block(ggml_type, entry) for entry in range(n_entries)), np.uint8)
    values = gguf.dequantize(blocks.reshape(n_entries, -1), gguf.GGMLQuantizationType(ggml_type))[:, :width]
    if ggml_type is GgmlType.IQ1_S:
        values = values - np.float32(0.125)
    assert (values == np.rint(values)).all()
    return values.astype(np.int8)


def main() -> None:
    tables = {
        "iq2_xxs": table(GgmlType.IQ2_XXS, 256, 8),
        "iq2_xs": table(GgmlType.IQ2_XS, 512, 8),
        "iq2_s": table(GgmlType.IQ2_S, 1024, 8),
        "iq3_xxs": table(GgmlType.IQ3_XXS, 256, 4),
        "iq3_s": table(GgmlType.IQ3_S, 512, 4),
        "iq1": table(GgmlType.IQ1_S, 2048, 8),
    }
    np.savez_compressed(TABLES, **tables)
    print(f"{TABLES}: {TABLES.stat().st_size} bytes")


if __name__ == "__main__":
    main()
