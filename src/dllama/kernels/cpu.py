"""The cpu as a device: the native operations over memory that Python sees."""

from __future__ import annotations

from dllama._native import Compute, PackedMatrix, Q80Rows
from dllama.dtypes import ElementType
from dllama.kernels.host_memory import HostBuffer, HostMemory


class Cpu(HostMemory, Compute):
    """See Device. Its operations are those of Compute, with nothing in between."""

    def rows(self, dtype: ElementType, max_rows: int, n: int) -> Q80Rows | HostBuffer:
        """Quantised for blocked weights, float32 for others."""
        return Q80Rows(max_rows, n) if dtype.is_blocked else self.buffer(max_rows, n)

    def matrix(self, dtype: ElementType, n_out: int, n_in: int) -> PackedMatrix:
        return PackedMatrix(self, dtype, n_out, n_in)
