"""Weights of the reference device: their values as float32."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dllama.dtypes import ElementType, cut_row_bytes
from dllama.kernels.cut_blocks import decode_cut

Bytes = NDArray[np.uint8]


class ReferenceMatrix:
    """See Matrix. Its values, decoded."""

    def __init__(self, dtype: ElementType, n_out: int, n_in: int, first_in: int) -> None:
        for name, n in (("n_in", n_in), ("first_in", first_in)):
            if n % dtype.run:
                raise ValueError(f"{name} must be a multiple of {dtype.run} for {dtype.label}")
        self.dtype = dtype
        self._first_in = first_in
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
        start, stop = self._first_in, self._first_in + self.n_in
        n_bytes = cut_row_bytes(self.dtype, start, stop)
        if rows.shape[1] != n_bytes:
            raise ValueError(f"rows.shape[1] must be {n_bytes}")
        values = decode_cut(self.dtype, rows, start, stop)
        self.values[first_row : first_row + len(rows)] = values
        return bool(np.isfinite(values).all())
