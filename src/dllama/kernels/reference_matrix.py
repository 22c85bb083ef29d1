"""Weights of the reference device: their values as float32."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dllama.dtypes import ElementType, row_bytes
from dllama.kernels import oracle

Bytes = NDArray[np.uint8]


class ReferenceMatrix:
    """See Matrix. Its values, decoded."""

    def __init__(self, dtype: ElementType, n_out: int, n_in: int) -> None:
        if n_in % dtype.block:
            raise ValueError(f"n_in must be a multiple of {dtype.block} for {dtype.label}")
        self.dtype = dtype
        self.values = np.zeros((n_out, n_in), np.float32)

    @property
    def n_out(self) -> int:
        return self.values.shape[0]

    @property
    def n_in(self) -> int:
        return self.values.shape[1]

    @property
    def nbytes(self) -> int:
        return self.values.nbytes

    def pack(self, first_row: int, rows: Bytes) -> bool:
        if not 0 <= first_row <= self.n_out - len(rows):
            raise ValueError("first_row and rows reach outside the matrix")
        if rows.shape[1] != row_bytes(self.dtype, self.n_in):
            raise ValueError(f"rows.shape[1] must be {row_bytes(self.dtype, self.n_in)}")
        values = oracle.decode(self.dtype, rows, self.n_in)
        self.values[first_row : first_row + len(rows)] = values
        return bool(np.isfinite(values).all())
