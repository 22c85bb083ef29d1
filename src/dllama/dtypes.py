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
        """Elements that are stored together: rows are whole blocks."""
        return _BLOCKS[self][0]

    @property
    def block_bytes(self) -> int:
        return _BLOCKS[self][1]

    @property
    def run(self) -> int:
        """Rows are cut over ranks between any two runs of so many elements (cut_row_bytes)."""
        return min(BLOCK, self.block)

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

_SHARED_BYTES: Mapping[ElementType, int] = MappingProxyType(
    {ElementType.Q4K: 16, ElementType.Q5K: 16, ElementType.Q6K: 18, ElementType.IQ4XS: 8}
)
"""Of these a block's scales, before the runs of 32 elements in blocks that are cut (native/block_layout.h)."""


def row_bytes(dtype: ElementType, n_elements: int) -> int:
    """Bytes of `n_elements` consecutive elements. Blocked types take whole blocks only (asserted)."""
    assert n_elements % dtype.block == 0, f"{n_elements} elements of {dtype.label} are not whole blocks"
    return n_elements // dtype.block * dtype.block_bytes


def cut_row_bytes(dtype: ElementType, start: int, stop: int) -> int:
    """Bytes of the elements [start, stop) of a row as a rank holds them, both multiples of `dtype.run` (asserted).

    Of a block of which the rank has some runs only, it has what belongs to all of it, its scales, and these runs
    (docs/formats.md).
    """
    assert start % dtype.run == stop % dtype.run == 0, (
        f"{start} to {stop} of {dtype.label} are not whole runs"
    )
    touched = whole_blocks(dtype, start, stop)
    runs_of_block, shared = dtype.block // dtype.run, _SHARED_BYTES.get(dtype, 0)
    run_bytes = (dtype.block_bytes - shared) // runs_of_block
    return len(touched) // dtype.block * shared + (stop - start) // dtype.run * run_bytes


def whole_blocks(dtype: ElementType, start: int, stop: int) -> range:
    """The elements of the blocks in which those of [start, stop) lie."""
    if start == stop:
        return range(start, start)
    return range(start // dtype.block * dtype.block, -(-stop // dtype.block) * dtype.block)
