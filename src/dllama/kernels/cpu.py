"""The cpu as a device: the native operations over memory that Python sees."""

from __future__ import annotations

from dllama._native import Compute, PackedMatrix, PackedStack, Q80Rows, RoutedRows
from dllama.dtypes import ElementType
from dllama.kernels.host_memory import HostMemory


class Cpu(HostMemory, Compute):
    """See Device. Its operations are those of Compute, with nothing in between."""

    def quantised_rows(self, max_rows: int, n: int) -> Q80Rows:
        return Q80Rows(max_rows, n)

    def matrix(self, dtype: ElementType, n_out: int, n_in: int, first_in: int = 0) -> PackedMatrix:
        return PackedMatrix(self, dtype, n_out, n_in, first_in)

    def stack(
        self, dtype: ElementType, n_matrices: int, n_out: int, n_in: int, first_in: int = 0
    ) -> PackedStack:
        return PackedStack(self, dtype, n_matrices, n_out, n_in, first_in)

    def routes(self, max_rows: int, n_experts: int, top_k: int) -> RoutedRows:
        return RoutedRows(max_rows, n_experts, top_k)
