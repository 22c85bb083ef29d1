"""Element types of weights and buffers, and their sizes in bytes.

Q40 and Q80 are blocks of 32 elements with one float16 scale, the layouts of ggml's Q4_0 and Q8_0
(docs/formats.md).
"""

from __future__ import annotations

import enum

BLOCK = 32
"""Elements that share one scale in Q40 and Q80."""

Q40_BLOCK_BYTES = 18
Q80_BLOCK_BYTES = 34


class ElementType(enum.IntEnum):
    """How elements are stored. The numbers 0 to 3 are those of the `.m` file; BF16 is only ever read."""

    F32 = 0
    F16 = 1
    Q40 = 2
    Q80 = 3
    BF16 = 16

    def __bool__(self) -> bool:
        """Always true: F32 is 0, and `given or default` must not take it for nothing."""
        return True

    @property
    def is_blocked(self) -> bool:
        return self in (ElementType.Q40, ElementType.Q80)

    @property
    def label(self) -> str:
        """The name on the command line and in file names: `q40`."""
        return self.name.lower()

    @classmethod
    def from_label(cls, label: str) -> ElementType:
        """Raises KeyError when `label` names no element type."""
        return cls[label.upper()]


_ELEMENT_BYTES = {ElementType.F32: 4, ElementType.F16: 2, ElementType.BF16: 2}
_BLOCK_BYTES = {ElementType.Q40: Q40_BLOCK_BYTES, ElementType.Q80: Q80_BLOCK_BYTES}


def row_bytes(dtype: ElementType, n_elements: int) -> int:
    """Bytes of `n_elements` consecutive elements. Blocked types take whole blocks only (asserted)."""
    if dtype.is_blocked:
        assert n_elements % BLOCK == 0, f"{n_elements} elements of {dtype.label} are not whole blocks"
        return n_elements // BLOCK * _BLOCK_BYTES[dtype]
    return n_elements * _ELEMENT_BYTES[dtype]
