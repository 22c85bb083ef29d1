"""Element types of weights and buffers, and their sizes in bytes.

Blocked types keep a run of elements with one scale or more: 32 of them, or 256 in the types whose labels end in k and
in IQ4XS. Their layouts are ggml's (docs/formats.md).
"""

from __future__ import annotations

import enum
from typing import Self

BLOCK = 32
"""Elements that share one scale in Q40 and Q80, and in the activations of a matrix product."""

Q40_BLOCK_BYTES = 18
Q80_BLOCK_BYTES = 34


class ElementType(enum.IntEnum):
    """How elements are stored: number, elements and bytes of a block, and how many of the bytes are of no run of it.
    The numbers 0 to 3 are those of the `.m` file; native/element_types.h has the same."""

    F32 = 0, 1, 4
    F16 = 1, 1, 2
    Q40 = 2, 32, Q40_BLOCK_BYTES
    Q80 = 3, 32, Q80_BLOCK_BYTES
    BF16 = 16, 1, 2
    Q41 = 17, 32, 20
    Q50 = 18, 32, 22
    Q51 = 19, 32, 24
    Q4K = 20, 256, 144, 16
    Q5K = 21, 256, 176, 16
    Q6K = 22, 256, 210, 18
    IQ4NL = 23, 32, 18
    IQ4XS = 24, 256, 136, 8
    MXFP4 = 25, 32, 17

    block: int
    """Elements that are stored together: rows are whole blocks."""
    block_bytes: int
    run: int
    """Rows are cut over ranks between any two runs of so many elements (cut_row_bytes)."""
    shared_bytes: int
    """Of a block's bytes the scales, which stand before its runs where it is cut (native/block_layout.h)."""

    # By a number alone members are found.
    def __new__(cls, number: int, block: int = 1, block_bytes: int = 0, shared_bytes: int = 0) -> Self:
        member = int.__new__(cls, number)
        member._value_ = number
        member.block, member.block_bytes, member.shared_bytes = block, block_bytes, shared_bytes
        member.run = min(BLOCK, block)
        return member

    __hash__ = int.__hash__  # that of Enum is Python's, and a step looks things up by type

    def __bool__(self) -> bool:
        """Always true: F32 is 0, and `given or default` must not take it for nothing."""
        return True

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
    n_blocks = len(whole_blocks(dtype, start, stop)) // dtype.block
    run_bytes = (dtype.block_bytes - dtype.shared_bytes) * dtype.run // dtype.block
    return n_blocks * dtype.shared_bytes + (stop - start) // dtype.run * run_bytes


def whole_blocks(dtype: ElementType, start: int, stop: int) -> range:
    """The elements of the blocks in which those of [start, stop) lie."""
    if start == stop:
        return range(start, start)
    return range(start // dtype.block * dtype.block, -(-stop // dtype.block) * dtype.block)
