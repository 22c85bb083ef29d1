"""The all-reduce behind each column-cut projection: partial sums, quantised on the wire, added in rank order."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dllama.dtypes import BLOCK, ElementType, row_bytes
from dllama.fabric import Fabric, exchange_all
from dllama.kernels import Compute


class PartialSums:
    """Adds every rank's partial sum to the residual stream, so that all ranks hold the same bits.

    With `wire` Q80 every rank's own part is used as the others see it: quantised. One rank alone adds its sum
    unquantised.
    """

    def __init__(
        self, compute: Compute, fabric: Fabric, dim: int, max_rows: int, wire: ElementType, timeout_s: float
    ) -> None:
        self._compute = compute
        self._fabric = fabric
        self._wire = wire
        self._timeout_s = timeout_s
        self._dim = dim
        self._row_bytes = wire_row_bytes(dim, wire)
        self._parts = np.empty(fabric.n_ranks * max_rows * self._row_bytes, np.uint8)
        self.wait_s = 0.0  # time in exchanges since it was last set to zero

    def add(self, x: NDArray[np.float32], partial: NDArray[np.float32], n_rows: int) -> None:
        """x [T, D] += the sum over ranks of `partial` [T, D]. Raises PeerError when a rank is lost."""
        if self._fabric.n_ranks == 1:
            self._compute.add_f32(x, partial.reshape(1, -1)[:, : n_rows * self._dim], n_rows)
            return
        n_bytes = n_rows * self._row_bytes
        parts = self._parts[: self._fabric.n_ranks * n_bytes].reshape(self._fabric.n_ranks, n_bytes)
        own = parts[self._fabric.rank]
        if self._wire is ElementType.Q80:
            self._compute.encode_q80(own.reshape(n_rows, -1), partial, n_rows)
        else:
            own[:] = partial[:n_rows].reshape(-1).view(np.uint8)
        self._exchange(own, parts)
        if self._wire is ElementType.Q80:
            self._compute.add_q80(x, parts, n_rows)
        else:
            self._compute.add_f32(x, parts.view(np.float32), n_rows)

    def _exchange(self, own: NDArray[Any], parts: NDArray[Any]) -> None:
        start = time.perf_counter()
        exchange_all(self._fabric, own, list(parts), self._timeout_s)
        self.wait_s += time.perf_counter() - start


def wire_row_bytes(dim: int, wire: ElementType) -> int:
    """Bytes of one row of partial sums; a last block that is not full travels padded."""
    return row_bytes(wire, -(-dim // BLOCK) * BLOCK if wire.is_blocked else dim)
