"""The reference device: the operations in plain NumPy, slow and obvious, to compare other devices with.

Weights are decoded to float32 when they come and multiply float32 inputs: nothing is quantised but what the operation
itself stores as such (the KV cache, what travels). Everything else is the oracle, rounded to float32 once.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dllama.dtypes import BLOCK, ElementType, row_bytes
from dllama.kernels import delta_oracle, oracle
from dllama.kernels.device import Buffer, Matrix, MatrixStack, Routes, Rows
from dllama.kernels.host_memory import HostBuffer, HostMemory, array_of
from dllama.kernels.reference_attention import Cache, Places, attend, store
from dllama.kernels.reference_delta import DeltaOperands, StatePlaces, convolve, recur
from dllama.kernels.reference_experts import ReferenceRoutes, ReferenceStack, down_slots, gate_slots
from dllama.kernels.reference_matrix import ReferenceMatrix
from dllama.kernels.router_oracle import Rule, fixed_order_norm

Float32 = NDArray[np.float32]
Bytes = NDArray[np.uint8]


def decodes_weights(isa: str) -> bool:
    """Whether a device that says so of itself holds matrices, and rows that others quantise, as float32."""
    return isa == Reference.isa


class ReferenceProgram:
    """See Program."""

    def __init__(self) -> None:
        self._operations: list[Callable[[], None]] = []

    def add(self, operation: Callable[[], None]) -> None:
        self._operations.append(operation)

    def run(self) -> None:
        for operation in self._operations:
            operation()

    def __len__(self) -> int:
        return len(self._operations)


class Reference(HostMemory):
    """See Device. Rows are float32, whatever the weights."""

    isa = "reference"
    n_threads = 1

    def __init__(self) -> None:
        self.native_s = 0.0
        self.attention_s = 0.0
        self._recording: ReferenceProgram | None = None

    def quantised_rows(self, max_rows: int, n: int) -> HostBuffer:
        return self.buffer(max_rows, n)

    def matrix(self, dtype: ElementType, n_out: int, n_in: int, first_in: int = 0) -> ReferenceMatrix:
        return ReferenceMatrix(dtype, n_out, n_in, first_in)

    def stack(
        self, dtype: ElementType, n_matrices: int, n_out: int, n_in: int, first_in: int = 0
    ) -> ReferenceStack:
        return ReferenceStack(dtype, n_matrices, n_out, n_in, first_in)

    def routes(self, max_rows: int, n_experts: int, top_k: int) -> ReferenceRoutes:
        return ReferenceRoutes(max_rows, n_experts, top_k)

    def record(self, call: Callable[..., object], *args: object) -> ReferenceProgram:
        if self._recording is not None:
            raise ValueError("compute records already")
        self._recording = program = ReferenceProgram()
        try:
            call(*args)
        finally:
            self._recording = None
        return program

    def quantize_rows(self, out: Rows, x: Buffer, n_rows: int) -> None:
        to, source = _floats(out, "out", n_rows), _floats(x, "x", n_rows)
        _need_columns(to, "out", source.shape[1])

        def operation() -> None:
            to[:] = source

        self._do(operation)

    def matmul(
        self,
        out: Buffer,
        matrix: Matrix,
        x: Rows,
        n_rows: int,
        add: bool = False,
        first_column: int | None = None,
    ) -> None:
        weights = _values(matrix)
        to, source = _floats(out, "out", n_rows), _floats(x, "x", n_rows)
        if first_column is not None:
            if not 0 <= first_column <= to.shape[1] - len(weights):
                raise ValueError("first_column and the matrix reach outside out")
            to = to[:, first_column : first_column + len(weights)]
        _need_columns(to, "out", len(weights))
        _need_columns(source, "x", weights.shape[1])

        def operation() -> None:
            product = _product(weights, source)
            to[:] = to + product if add else product

        self._do(operation)

    def gated_matmul(
        self, out: Rows, matrix: Matrix, x: Rows, scratch: Buffer, n_rows: int, activation: str
    ) -> None:
        self.matmul(scratch, matrix, x, n_rows)
        self.silu_mul(out, scratch, n_rows, activation)

    def silu_mul(self, out: Rows, gate_up: Buffer, n_rows: int, activation: str) -> None:
        """out [T, F] := act(gate) * up of gate_up [T, 2F]."""
        _need_known(activation)
        to, source = _floats(out, "out", n_rows), _floats(gate_up, "gate_up", n_rows)
        _need_columns(source, "gate_up", 2 * to.shape[1])

        def operation() -> None:
            to[:] = oracle.gated(source, activation)

        self._do(operation)

    def route(
        self,
        routing: Routes,
        x: Buffer,
        norm: Buffer,
        eps: float,
        weights: Buffer,
        n_rows: int,
        renormalised: bool,
        sigmoid: bool = False,
        choice_bias: Buffer | None = None,
        n_groups: int = 1,
        top_groups: int = 1,
        group_best: int = 1,
        scale: float = 1.0,
        logit_bias: Buffer | None = None,
    ) -> None:
        routes = ReferenceRoutes.of(routing, n_rows)
        source, factors = _floats(x, "x", n_rows), _vector(norm, "norm")
        matrix = _floats(weights, "weights", routes.n_experts)
        _need_columns(source, "x", len(factors))
        _need_columns(matrix, "weights", len(factors))
        rule = Rule(
            top_k=routes.top_k,
            renormalised=renormalised,
            sigmoid=sigmoid,
            choice_bias=None if choice_bias is None else _vector(choice_bias, "choice_bias"),
            logit_bias=None if logit_bias is None else _vector(logit_bias, "logit_bias"),
            n_groups=n_groups,
            top_groups=top_groups,
            group_best=group_best,
            scale=scale,
        )
        rule.check(routes.n_experts)
        self._do(lambda: routes.choose(source, factors, eps, matrix, rule))

    def experts_gated(
        self,
        out: Rows,
        stack: MatrixStack,
        x: Rows,
        routing: Routes,
        n_rows: int,
        activation: str,
        gate_bias: Buffer | None = None,
        up_bias: Buffer | None = None,
    ) -> None:
        routes = ReferenceRoutes.of(routing, n_rows)
        matrices = ReferenceStack.of(stack, 2 * routes.n_experts)
        _need_known(activation)
        if (gate_bias is None) != (up_bias is None):
            raise ValueError("up_bias must be there where gate_bias is")
        size = (routes.n_experts, matrices.n_out)
        biases = None
        if gate_bias is not None and up_bias is not None:
            biases = _table(gate_bias, "gate_bias", size), _table(up_bias, "up_bias", size)
        to, source = _floats(out, "out", n_rows * routes.top_k), _floats(x, "x", n_rows)
        _need_columns(to, "out", matrices.n_out)
        _need_columns(source, "x", matrices.n_in)
        self._do(lambda: gate_slots(to, matrices, source, routes, activation, biases))

    def experts_down(
        self,
        out: Buffer,
        stack: MatrixStack,
        x: Rows,
        routing: Routes,
        n_rows: int,
        add: bool = False,
        bias: Buffer | None = None,
    ) -> None:
        routes = ReferenceRoutes.of(routing, n_rows)
        matrices = ReferenceStack.of(stack, routes.n_experts)
        to, source = _floats(out, "out", n_rows), _floats(x, "x", n_rows * routes.top_k)
        _need_columns(to, "out", matrices.n_out)
        _need_columns(source, "x", matrices.n_in)
        added = None if bias is None else _table(bias, "bias", (routes.n_experts, matrices.n_out))
        self._do(lambda: down_slots(to, matrices, source, routes, add, added))

    def rms_norm(self, out: Rows, x: Buffer, weight: Buffer, eps: float, n_rows: int) -> None:
        to, source, scale = _floats(out, "out", n_rows), _floats(x, "x", n_rows), _vector(weight, "weight")
        _need_columns(source, "x", len(scale))
        _need_columns(to, "out", len(scale))

        def operation() -> None:
            to[:] = oracle.rms_norm(source, scale, eps)

        self._do(operation)

    def rms_norm_in_order(self, out: Buffer, x: Buffer, weight: Buffer, eps: float, n_rows: int) -> None:
        to, source, scale = _floats(out, "out", n_rows), _floats(x, "x", n_rows), _vector(weight, "weight")
        _need_columns(source, "x", len(scale))
        _need_columns(to, "out", len(scale))

        def operation() -> None:
            to[:] = fixed_order_norm(source, scale, eps)

        self._do(operation)

    def layer_norm(self, out: Rows, x: Buffer, weight: Buffer, bias: Buffer, eps: float, n_rows: int) -> None:
        to, source = _floats(out, "out", n_rows), _floats(x, "x", n_rows)
        scale, addend = _vector(weight, "weight"), _vector(bias, "bias")
        _need_columns(source, "x", len(scale))
        _need_columns(source, "x", len(addend))
        _need_columns(to, "out", len(scale))

        def operation() -> None:
            to[:] = oracle.layer_norm(source, scale, addend, eps)

        self._do(operation)

    def head_rms_norm(
        self, x: Buffer, weight: Buffer, eps: float, first_head: int, n_heads: int, n_rows: int
    ) -> None:
        rows, scale = _floats(x, "x", n_rows), _vector(weight, "weight")
        first, last = first_head * len(scale), (first_head + n_heads) * len(scale)
        if not 0 <= first <= last <= rows.shape[1]:
            raise ValueError("n_heads and first_head reach outside x")

        def operation() -> None:
            heads = rows[:, first:last].reshape(n_rows, n_heads, -1)
            rows[:, first:last] = oracle.rms_norm(heads, scale, eps).reshape(n_rows, -1)

        self._do(operation)

    def add_bias(self, x: Buffer, bias: Buffer, n_rows: int) -> None:
        rows, addend = _floats(x, "x", n_rows), _vector(bias, "bias")
        _need_columns(rows, "x", len(addend))

        def operation() -> None:
            rows[:] += addend

        self._do(operation)

    def soft_cap(self, x: Buffer, scale: float, cap: float, n_rows: int) -> None:
        rows = _floats(x, "x", n_rows)

        def operation() -> None:
            rows[:] = oracle.soft_cap(rows, scale, cap)

        self._do(operation)

    def rope_store(
        self,
        qkv: Buffer,
        cos_sin: Buffer,
        positions: Buffer,
        sequence: Buffer,
        page_table: Buffer,
        k_cache: Buffer,
        v_cache: Buffer,
        n_heads: int,
        n_halves: int,
        n_rows: int,
    ) -> None:
        rows, angles = _floats(qkv, "qkv", n_rows), array_of(cos_sin, "cos_sin")
        places = Places.of(positions, sequence, page_table, n_rows)
        caches = Cache.pair(k_cache, v_cache, rows.shape[1], n_heads)
        if angles.shape[1:] != (caches[0].head_dim // 2, 2):
            raise ValueError(f"cos_sin must be [n_positions, {caches[0].head_dim // 2}, 2]")
        self._do(lambda: store(rows, angles, places, caches, n_heads, n_halves))

    def attention(
        self,
        out: Rows,
        qkv: Buffer,
        positions: Buffer,
        sequence: Buffer,
        page_table: Buffer,
        k_cache: Buffer,
        v_cache: Buffer,
        n_heads: int,
        head_offset: int,
        group: int,
        window: int,
        n_rows: int,
        sinks: Buffer | None = None,
        soft_cap: float = 0.0,
    ) -> None:
        rows, to = _floats(qkv, "qkv", n_rows), _floats(out, "out", n_rows)
        places = Places.of(positions, sequence, page_table, n_rows)
        caches = Cache.pair(k_cache, v_cache, rows.shape[1], n_heads)
        _need_columns(to, "out", n_heads * caches[0].head_dim)
        if (n_heads - 1 + head_offset) // group >= caches[0].n_heads:
            raise ValueError("n_heads and head_offset need more KV heads than k_cache has")
        kv_heads = (np.arange(n_heads) + head_offset) // group
        added = None if sinks is None else _vector(sinks, "sinks")
        if added is not None and len(added) != n_heads:
            raise ValueError(f"sinks must be of {n_heads} heads")

        def operation() -> None:
            start_s = time.perf_counter()
            attend(to, rows, places, caches, kv_heads, window, added, soft_cap)
            self.attention_s += time.perf_counter() - start_s

        self._do(operation)

    def causal_conv(
        self,
        out: Buffer,
        x: Buffer,
        weights: Buffer,
        state: Buffer,
        positions: Buffer,
        sequence: Buffer,
        page_table: Buffer,
        page_size: int,
        n_rows: int,
    ) -> None:
        to, source = _floats(out, "out", n_rows), _floats(x, "x", n_rows)
        kernel, states = array_of(weights, "weights"), array_of(state, "state")
        places = StatePlaces.of(positions, sequence, page_table, page_size, n_rows)
        _need_columns(kernel, "weights", to.shape[1])
        if states.shape[1:] != (len(kernel) - 1, to.shape[1]):
            raise ValueError(f"state must be [pages, {len(kernel) - 1}, {to.shape[1]}]")
        _first_columns(source, "x", 0, to.shape[1])
        self._do(lambda: convolve(to, source, kernel, states, places))

    def delta_rule(
        self,
        out: Buffer,
        qkv: Buffer,
        gates: Buffer,
        first_gate: int,
        log_rate: Buffer,
        dt_bias: Buffer,
        state: Buffer,
        positions: Buffer,
        sequence: Buffer,
        page_table: Buffer,
        page_size: int,
        head_offset: int,
        group: int,
        n_rows: int,
    ) -> None:
        to, source = _floats(out, "out", n_rows), _floats(qkv, "qkv", n_rows)
        states, places = (
            array_of(state, "state"),
            StatePlaces.of(positions, sequence, page_table, page_size, n_rows),
        )
        _, n_heads, key_dim, value_dim = states.shape
        key_heads = (np.arange(n_heads) + head_offset) // group
        _need_columns(to, "out", n_heads * value_dim)
        _need_columns(source, "qkv", 2 * (int(key_heads[-1]) + 1) * key_dim + n_heads * value_dim)
        beta, alpha = np.split(
            _first_columns(_floats(gates, "gates", n_rows), "gates", first_gate, 2 * n_heads), 2, axis=1
        )
        rate, bias = _vector(log_rate, "log_rate"), _vector(dt_bias, "dt_bias")
        if len(rate) != n_heads or len(bias) != n_heads:
            raise ValueError(f"log_rate and dt_bias must have {n_heads} elements")
        operands = DeltaOperands(source, beta, alpha, rate, bias, states, key_heads)
        self._do(lambda: recur(to, operands, places))

    def gated_norm(
        self, out: Rows, x: Buffer, weight: Buffer, eps: float, gate: Buffer, first_column: int, n_rows: int
    ) -> None:
        to, source, scale = _floats(out, "out", n_rows), _floats(x, "x", n_rows), _vector(weight, "weight")
        _need_columns(to, "out", source.shape[1])
        if source.shape[1] % len(scale):
            raise ValueError("x must be whole heads of the weight's width")
        by = _first_columns(_floats(gate, "gate", n_rows), "gate", first_column, source.shape[1])

        def operation() -> None:
            heads = source.reshape(n_rows, -1, len(scale))
            to[:] = oracle.rms_norm(heads, scale, eps).reshape(n_rows, -1) * delta_oracle.silu(by)

        self._do(operation)

    def sigmoid_scale(self, out: Rows, x: Buffer, gate: Buffer, n_rows: int) -> None:
        to, source, by = _floats(out, "out", n_rows), _floats(x, "x", n_rows), _floats(gate, "gate", n_rows)
        _need_columns(to, "out", source.shape[1])
        _need_columns(by, "gate", 1)

        def operation() -> None:
            to[:] = source * delta_oracle.sigmoid(by)

        self._do(operation)

    def sigmoid_mul(self, out: Rows, x: Buffer, gate: Buffer, first_column: int, n_rows: int) -> None:
        to, source = _floats(out, "out", n_rows), _floats(x, "x", n_rows)
        _need_columns(to, "out", source.shape[1])
        by = _first_columns(_floats(gate, "gate", n_rows), "gate", first_column, source.shape[1])

        def operation() -> None:
            to[:] = source * delta_oracle.sigmoid(by)

        self._do(operation)

    def top_candidates(
        self,
        ids: NDArray[np.int32],
        largest: Float32,
        sums: NDArray[np.float64],
        logits: Buffer,
        temperature: Float32,
        first_id: int,
        n_rows: int,
    ) -> None:
        source = _floats(logits, "logits", n_rows)

        def operation() -> None:
            places, values, totals = oracle.top_candidates(source, largest.shape[1], temperature)
            ids[:n_rows], largest[:n_rows], sums[:] = places + first_id, values, totals

        self._do(operation)

    def encode_q80(self, out: Buffer, x: Buffer, n_rows: int) -> None:
        to, source = array_of(out, "out"), _floats(x, "x", n_rows)
        _need_columns(to, "out", _wire_bytes(source.shape[1]))
        _need_rows(to, "out", n_rows)

        def operation() -> None:
            padded = np.pad(source, [(0, 0), (0, -source.shape[1] % BLOCK)])
            to[:n_rows] = oracle.encode(ElementType.Q80, padded)

        self._do(operation)

    def add_q80(self, x: Buffer, parts: Buffer, n_rows: int, rounded: bool = False) -> None:
        rows, wire = _floats(x, "x", n_rows), array_of(parts, "parts")
        n = rows.shape[1]
        n_bytes = n_rows * _wire_bytes(n)
        if wire.shape[1] < n_bytes:
            raise ValueError(f"parts.shape[1] must be at least {n_bytes}")

        def operation() -> None:
            total = _sum_q80(wire[:, :n_bytes], rounded)
            rows[:] += total.reshape(n_rows, -1)[:, :n]

        self._do(operation)

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
        rows, addends = _floats(x, "x", n_rows), array_of(parts, "parts")
        if addends.shape[1] < rows.size:
            raise ValueError(f"parts.shape[1] must be at least {rows.size}")

        def operation() -> None:
            rows[:] += oracle.sum_in_order(addends[:, : rows.size]).reshape(rows.shape)

        self._do(operation)

    def sum_q80(self, out: Bytes, parts: Bytes) -> None:
        total = _sum_q80(parts[:, : len(out)], rounded=False)
        out[:] = oracle.encode(ElementType.Q80, total[None])[0]

    def _do(self, operation: Callable[[], None]) -> None:
        """Carries the operation out, or keeps it while recording."""

        def timed() -> None:
            start_s = time.perf_counter()
            operation()
            self.native_s += time.perf_counter() - start_s

        if self._recording is None:
            timed()
        else:
            self._recording.add(timed)


def _product(weights: Float32, x: Float32) -> Float32:
    """x [T, n_in] @ weights.T, row by row: in one product a row's bits would depend on the others."""
    return np.array([weights @ row for row in x], np.float32).reshape(len(x), len(weights))


def _sum_q80(parts: Bytes, rounded: bool) -> Float32:
    """The sum of parts [P, bytes of n values]: [n]."""
    n = parts.shape[1] // row_bytes(ElementType.Q80, BLOCK) * BLOCK
    total = oracle.sum_in_order(oracle.decode(ElementType.Q80, parts, n))
    if rounded:
        total = oracle.decode(ElementType.Q80, oracle.encode(ElementType.Q80, total[None]), n)[0]
    return total


def _wire_bytes(n: int) -> int:
    return row_bytes(ElementType.Q80, -(-n // BLOCK) * BLOCK)


def _values(matrix: Matrix) -> Float32:
    if not isinstance(matrix, ReferenceMatrix):
        raise TypeError("matrix must be one of the reference device")
    return matrix.values


def _floats(operand: Rows, name: str, n_rows: int) -> Float32:
    """The first rows of a float32 [T, n] operand."""
    array = array_of(operand, name)
    if array.dtype != np.float32:
        raise TypeError(f"{name} must be float32, not {array.dtype}")
    if array.ndim != 2:
        raise ValueError(f"{name} must have 2 dimensions, not {array.ndim}")
    _need_rows(array, name, n_rows)
    return array[:n_rows]


def _first_columns(array: Float32, name: str, first: int, n: int) -> Float32:
    """`n` columns from `first` on, a view."""
    if not 0 <= first <= array.shape[1] - n:
        raise ValueError(f"{name} has no {n} columns from {first} on")
    return array[:, first : first + n]


def _vector(operand: Buffer, name: str) -> Float32:
    array = array_of(operand, name)
    if array.dtype != np.float32:
        raise TypeError(f"{name} must be float32, not {array.dtype}")
    if array.ndim != 1:
        raise ValueError(f"{name} must have 1 dimension, not {array.ndim}")
    return array


def _table(operand: Buffer, name: str, shape: tuple[int, int]) -> Float32:
    table = _floats(operand, name, shape[0])
    if table.shape != shape:
        raise ValueError(f"{name} must be {list(shape)}, not {list(table.shape)}")
    return table


def _need_known(activation: str) -> None:
    if activation not in ("silu", "gelu", "swiglu_oai"):
        raise ValueError("activation must be 'silu', 'gelu' or 'swiglu_oai'")


def _need_rows(array: NDArray[Any], name: str, n_rows: int) -> None:
    if not 0 <= n_rows <= len(array):
        raise ValueError(f"n_rows {n_rows} is not between 0 and the {len(array)} rows of {name}")


def _need_columns(array: NDArray[Any], name: str, wanted: int) -> None:
    if array.shape[1] != wanted:
        raise ValueError(f"{name}.shape[1] must be {wanted}, not {array.shape[1]}")
