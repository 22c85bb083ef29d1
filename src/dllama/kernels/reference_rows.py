"""The operations of the reference device that work on each row by itself: norms, activations, gates, biases."""

from __future__ import annotations

from dllama.kernels import delta_oracle, oracle
from dllama.kernels.device import Buffer, Rows
from dllama.kernels.reference_operands import first_columns, floats, need_columns, need_known, vector
from dllama.kernels.reference_program import Recorder
from dllama.kernels.router_oracle import fixed_order_norm


class RowOperations(Recorder):
    """See Device. Rows are float32, whatever the weights."""

    def silu_mul(self, out: Rows, gate_up: Buffer, n_rows: int, activation: str) -> None:
        """out [T, F] := act(gate) * up of gate_up [T, 2F]."""
        need_known(activation)
        to, source = floats(out, "out", n_rows), floats(gate_up, "gate_up", n_rows)
        need_columns(source, "gate_up", 2 * to.shape[1])

        def operation() -> None:
            to[:] = oracle.gated(source, activation)

        self.carry_out(operation)

    def rms_norm(self, out: Rows, x: Buffer, weight: Buffer, eps: float, n_rows: int) -> None:
        to, source, scale = floats(out, "out", n_rows), floats(x, "x", n_rows), vector(weight, "weight")
        need_columns(source, "x", len(scale))
        need_columns(to, "out", len(scale))

        def operation() -> None:
            to[:] = oracle.rms_norm(source, scale, eps)

        self.carry_out(operation)

    def rms_norm_in_order(self, out: Buffer, x: Buffer, weight: Buffer, eps: float, n_rows: int) -> None:
        to, source, scale = floats(out, "out", n_rows), floats(x, "x", n_rows), vector(weight, "weight")
        need_columns(source, "x", len(scale))
        need_columns(to, "out", len(scale))

        def operation() -> None:
            to[:] = fixed_order_norm(source, scale, eps)

        self.carry_out(operation)

    def layer_norm(self, out: Rows, x: Buffer, weight: Buffer, bias: Buffer, eps: float, n_rows: int) -> None:
        to, source = floats(out, "out", n_rows), floats(x, "x", n_rows)
        scale, addend = vector(weight, "weight"), vector(bias, "bias")
        need_columns(source, "x", len(scale))
        need_columns(source, "x", len(addend))
        need_columns(to, "out", len(scale))

        def operation() -> None:
            to[:] = oracle.layer_norm(source, scale, addend, eps)

        self.carry_out(operation)

    def head_rms_norm(
        self, x: Buffer, weight: Buffer, eps: float, first_head: int, n_heads: int, n_rows: int
    ) -> None:
        rows, scale = floats(x, "x", n_rows), vector(weight, "weight")
        first, last = first_head * len(scale), (first_head + n_heads) * len(scale)
        if not 0 <= first <= last <= rows.shape[1]:
            raise ValueError("n_heads and first_head reach outside x")

        def operation() -> None:
            heads = rows[:, first:last].reshape(n_rows, n_heads, -1)
            rows[:, first:last] = oracle.rms_norm(heads, scale, eps).reshape(n_rows, -1)

        self.carry_out(operation)

    def add_bias(self, x: Buffer, bias: Buffer, n_rows: int) -> None:
        rows, addend = floats(x, "x", n_rows), vector(bias, "bias")
        need_columns(rows, "x", len(addend))

        def operation() -> None:
            rows[:] += addend

        self.carry_out(operation)

    def soft_cap(self, x: Buffer, scale: float, cap: float, n_rows: int) -> None:
        rows = floats(x, "x", n_rows)

        def operation() -> None:
            rows[:] = oracle.soft_cap(rows, scale, cap)

        self.carry_out(operation)

    def clear(self, x: Buffer, n_rows: int) -> None:
        rows = floats(x, "x", n_rows)
        self.carry_out(lambda: rows.fill(0))

    def gated_norm(
        self, out: Rows, x: Buffer, weight: Buffer, eps: float, gate: Buffer, first_column: int, n_rows: int
    ) -> None:
        to, source, scale = floats(out, "out", n_rows), floats(x, "x", n_rows), vector(weight, "weight")
        need_columns(to, "out", source.shape[1])
        if source.shape[1] % len(scale):
            raise ValueError("x must be whole heads of the weight's width")
        by = first_columns(floats(gate, "gate", n_rows), "gate", first_column, source.shape[1])

        def operation() -> None:
            heads = source.reshape(n_rows, -1, len(scale))
            to[:] = oracle.rms_norm(heads, scale, eps).reshape(n_rows, -1) * delta_oracle.silu(by)

        self.carry_out(operation)

    def sigmoid_scale(self, out: Rows, x: Buffer, gate: Buffer, n_rows: int) -> None:
        to, source, by = floats(out, "out", n_rows), floats(x, "x", n_rows), floats(gate, "gate", n_rows)
        need_columns(to, "out", source.shape[1])
        need_columns(by, "gate", 1)

        def operation() -> None:
            to[:] = source * delta_oracle.sigmoid(by)

        self.carry_out(operation)

    def sigmoid_mul(self, out: Rows, x: Buffer, gate: Buffer, first_column: int, n_rows: int) -> None:
        to, source = floats(out, "out", n_rows), floats(x, "x", n_rows)
        need_columns(to, "out", source.shape[1])
        by = first_columns(floats(gate, "gate", n_rows), "gate", first_column, source.shape[1])

        def operation() -> None:
            to[:] = source * delta_oracle.sigmoid(by)

        self.carry_out(operation)
