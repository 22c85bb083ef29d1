"""Element types of weights and buffers, and their sizes in bytes.

Blocked types keep a run of elements with one scale or more: 32 of them, or 256 in the types whose labels end in k and
in IQ4XS. Their layouts are ggml's (docs/formats.md).
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from types import MappingProxyType

BLOCK = 32
"""Elements that share one scale in Q40 and Q80, and in the activations of a matrix product."""

Q40_BLOCK_BYTES = 18
Q80_BLOCK_BYTES = 34


class ElementType(enum.IntEnum):
    """How elements are stored. The numbers 0 to 3 are those of the `.m` file; native/kernel_table.h has the same."""

    F32 = 0
    F16 = 1
    Q40 = 2
    Q80 = 3
    BF16 = 16
    Q41 = 17
    Q50 = 18
    Q51 = 19
    Q4K = 20
    Q5K = 21
    Q6K = 22
    IQ4NL = 23
    IQ4XS = 24
    MXFP4 = 25

    def __bool__(self) -> bool:
        """Always true: F32 is 0, and `given or default` must not take it for nothing."""
        return True

    @property
    def block(self) -> int:
        """Elements that are stored together: rows are whole blocks, and are cut between blocks only."""
        return _BLOCKS[self][0]

    @property
    def block_bytes(self) -> int:
        return _BLOCKS[self][1]

    @property
    def is_blocked(self) -> bool:
        return self.block > 1

    @property
    def label(self) -> str:
        """The name on the command line and in file names: `q40`."""
        return self.name.lower()

    @classmethod
    def from_label(cls, label: str) -> ElementType:
        """Takes ggml's spelling too, `Q4_K`. Raises KeyError when `label` names no element type."""
        return cls[label.upper().replace("_", "")]


_BLOCKS: Mapping[ElementType, tuple[int, int]] = MappingProxyType(
    {
        ElementType.F32: (1, 4),
        ElementType.F16: (1, 2),
        ElementType.BF16: (1, 2),
        ElementType.Q40: (32, Q40_BLOCK_BYTES),
        ElementType.Q41: (32, 20),
        ElementType.Q50: (32, 22),
        ElementType.Q51: (32, 24),
        ElementType.Q80: (32, Q80_BLOCK_BYTES),
        ElementType.Q4K: (256, 144),
        ElementType.Q5K: (256, 176),
        ElementType.Q6K: (256, 210),
        ElementType.IQ4NL: (32, 18),
        ElementType.IQ4XS: (256, 136),
        ElementType.MXFP4: (32, 17),
    }
)
"""Elements and bytes of a block."""


def row_bytes(dtype: ElementType, n_elements: int) -> int:
    """Bytes of `n_elements` consecutive elements. Blocked types take whole blocks only (asserted)."""
    assert n_elements % dtype.block == 0, f"{n_elements} elements of {dtype.label} are not whole blocks"
    return n_elements // dtype.block * dtype.block_bytes
