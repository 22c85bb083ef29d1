"""The operations of the reference device on sums over ranks, with the bits that every device gives them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dllama.dtypes import BLOCK, ElementType, row_bytes
from dllama.kernels import oracle
from dllama.kernels.device import Buffer, Rows
from dllama.kernels.host_memory import array_of
from dllama.kernels.reference_operands import Float32, floats, need_columns, need_rows
from dllama.kernels.reference_rows import RowOperations

Bytes = NDArray[np.uint8]


class SumOperations(RowOperations):
    """See Device."""

    def encode_q80(self, out: Buffer, x: Buffer, n_rows: int) -> None:
        to, source = array_of(out, "out"), floats(x, "x", n_rows)
        need_columns(to, "out", _wire_bytes(source.shape[1]))
        need_rows(to, "out", n_rows)

        def operation() -> None:
            padded = np.pad(source, [(0, 0), (0, -source.shape[1] % BLOCK)])
            to[:n_rows] = oracle.encode(ElementType.Q80, padded)

        self.carry_out(operation)

    def add_q80(self, x: Buffer, parts: Buffer, n_rows: int, rounded: bool = False) -> None:
        rows, wire = floats(x, "x", n_rows), array_of(parts, "parts")
        n = rows.shape[1]
        n_bytes = n_rows * _wire_bytes(n)
        if wire.shape[1] < n_bytes:
            raise ValueError(f"parts.shape[1] must be at least {n_bytes}")

        def operation() -> None:
            total = _sum_q80(wire[:, :n_bytes], rounded)
            rows[:] += total.reshape(n_rows, -1)[:, :n]

        self.carry_out(operation)

    def add_norm_q80(
        self,
        out: Rows,
        x: Buffer,
        parts: Buffer,
        weight: Buffer,
        eps: float,
        n_rows: int,
        rounded: bool = False,
    ) -> None:
        self.add_q80(x, parts, n_rows, rounded)
        self.rms_norm(out, x, weight, eps, n_rows)

    def add_f32(self, x: Buffer, parts: Buffer, n_rows: int) -> None:
        rows, addends = floats(x, "x", n_rows), array_of(parts, "parts")
        if addends.shape[1] < rows.size:
            raise ValueError(f"parts.shape[1] must be at least {rows.size}")

        def operation() -> None:
            rows[:] += oracle.sum_in_order(addends[:, : rows.size]).reshape(rows.shape)

        self.carry_out(operation)

    def sum_q80(self, out: Bytes, parts: Bytes) -> None:
        total = _sum_q80(parts[:, : len(out)], rounded=False)
        out[:] = oracle.encode(ElementType.Q80, total[None])[0]


def _sum_q80(parts: Bytes, rounded: bool) -> Float32:
    """The sum of parts [P, bytes of n values]: [n]."""
    n = parts.shape[1] // row_bytes(ElementType.Q80, BLOCK) * BLOCK
    total = oracle.sum_in_order(oracle.decode(ElementType.Q80, parts, n))
    if rounded:
        total = oracle.decode(ElementType.Q80, oracle.encode(ElementType.Q80, total[None]), n)[0]
    return total


def _wire_bytes(n: int) -> int:
    return row_bytes(ElementType.Q80, -(-n // BLOCK) * BLOCK)
