"""The reference device: the operations in plain NumPy, slow and obvious, to compare other devices with.

Weights are decoded to float32 when they come and multiply float32 inputs: nothing is quantised but what the operation
itself stores as such (the KV cache, what travels). Everything else is the oracle, rounded to float32 once.
"""

from __future__ import annotations

import time

import numpy as np
from numpy.typing import NDArray

from dllama.dtypes import ElementType
from dllama.kernels import oracle
from dllama.kernels.device import Buffer, Matrix, MatrixStack, Routes, Rows
from dllama.kernels.host_memory import HostBuffer, array_of
from dllama.kernels.reference_attention import Cache, Places, attend, store
from dllama.kernels.reference_delta import DeltaOperands, StatePlaces, convolve, recur
from dllama.kernels.reference_experts import ReferenceRoutes, ReferenceStack, down_slots, gate_slots
from dllama.kernels.reference_latent import LatentOperations
from dllama.kernels.reference_matrix import ReferenceMatrix
from dllama.kernels.reference_operands import first_columns, floats, need_columns, need_known, table, vector
from dllama.kernels.router_oracle import Rule

Float32 = NDArray[np.float32]
Bytes = NDArray[np.uint8]


def decodes_weights(isa: str) -> bool:
    """Whether a device that says so of itself holds matrices, and rows that others quantise, as float32."""
    return isa == Reference.isa


class Reference(LatentOperations):
    """See Device. Rows are float32, whatever the weights."""

    isa = "reference"
    n_threads = 1

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

    def quantize_rows(self, out: Rows, x: Buffer, n_rows: int) -> None:
        to, source = floats(out, "out", n_rows), floats(x, "x", n_rows)
        need_columns(to, "out", source.shape[1])

        def operation() -> None:
            to[:] = source

        self.carry_out(operation)

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
        to, source = floats(out, "out", n_rows), floats(x, "x", n_rows)
        if first_column is not None:
            if not 0 <= first_column <= to.shape[1] - len(weights):
                raise ValueError("first_column and the matrix reach outside out")
            to = to[:, first_column : first_column + len(weights)]
        need_columns(to, "out", len(weights))
        need_columns(source, "x", weights.shape[1])

        def operation() -> None:
            product = _product(weights, source)
            to[:] = to + product if add else product

        self.carry_out(operation)

    def gated_matmul(
        self, out: Rows, matrix: Matrix, x: Rows, scratch: Buffer, n_rows: int, activation: str
    ) -> None:
        self.matmul(scratch, matrix, x, n_rows)
        self.silu_mul(out, scratch, n_rows, activation)

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
        source, factors = floats(x, "x", n_rows), vector(norm, "norm")
        matrix = floats(weights, "weights", routes.n_experts)
        need_columns(source, "x", len(factors))
        need_columns(matrix, "weights", len(factors))
        rule = Rule(
            top_k=routes.top_k,
            renormalised=renormalised,
            sigmoid=sigmoid,
            choice_bias=None if choice_bias is None else vector(choice_bias, "choice_bias"),
            logit_bias=None if logit_bias is None else vector(logit_bias, "logit_bias"),
            n_groups=n_groups,
            top_groups=top_groups,
            group_best=group_best,
            scale=scale,
        )
        rule.check(routes.n_experts)
        self.carry_out(lambda: routes.choose(source, factors, eps, matrix, rule))

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
        need_known(activation)
        if (gate_bias is None) != (up_bias is None):
            raise ValueError("up_bias must be there where gate_bias is")
        size = (routes.n_experts, matrices.n_out)
        biases = None
        if gate_bias is not None and up_bias is not None:
            biases = table(gate_bias, "gate_bias", size), table(up_bias, "up_bias", size)
        to, source = floats(out, "out", n_rows * routes.top_k), floats(x, "x", n_rows)
        need_columns(to, "out", matrices.n_out)
        need_columns(source, "x", matrices.n_in)
        self.carry_out(lambda: gate_slots(to, matrices, source, routes, activation, biases))

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
        to, source = floats(out, "out", n_rows), floats(x, "x", n_rows * routes.top_k)
        need_columns(to, "out", matrices.n_out)
        need_columns(source, "x", matrices.n_in)
        added = None if bias is None else table(bias, "bias", (routes.n_experts, matrices.n_out))
        self.carry_out(lambda: down_slots(to, matrices, source, routes, add, added))

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
        rows, angles = floats(qkv, "qkv", n_rows), array_of(cos_sin, "cos_sin")
        places = Places.of(positions, sequence, page_table, n_rows)
        caches = Cache.pair(k_cache, v_cache, rows.shape[1], n_heads)
        if angles.shape[1:] != (caches[0].head_dim // 2, 2):
            raise ValueError(f"cos_sin must be [n_positions, {caches[0].head_dim // 2}, 2]")
        self.carry_out(lambda: store(rows, angles, places, caches, n_heads, n_halves))

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
        rows, to = floats(qkv, "qkv", n_rows), floats(out, "out", n_rows)
        places = Places.of(positions, sequence, page_table, n_rows)
        caches = Cache.pair(k_cache, v_cache, rows.shape[1], n_heads)
        need_columns(to, "out", n_heads * caches[0].head_dim)
        if (n_heads - 1 + head_offset) // group >= caches[0].n_heads:
            raise ValueError("n_heads and head_offset need more KV heads than k_cache has")
        kv_heads = (np.arange(n_heads) + head_offset) // group
        added = None if sinks is None else vector(sinks, "sinks")
        if added is not None and len(added) != n_heads:
            raise ValueError(f"sinks must be of {n_heads} heads")

        def operation() -> None:
            start_s = time.perf_counter()
            attend(to, rows, places, caches, kv_heads, window, added, soft_cap)
            self.attention_s += time.perf_counter() - start_s

        self.carry_out(operation)

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
        to, source = floats(out, "out", n_rows), floats(x, "x", n_rows)
        kernel, states = array_of(weights, "weights"), array_of(state, "state")
        places = StatePlaces.of(positions, sequence, page_table, page_size, n_rows)
        need_columns(kernel, "weights", to.shape[1])
        if states.shape[1:] != (len(kernel) - 1, to.shape[1]):
            raise ValueError(f"state must be [pages, {len(kernel) - 1}, {to.shape[1]}]")
        first_columns(source, "x", 0, to.shape[1])
        self.carry_out(lambda: convolve(to, source, kernel, states, places))

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
        to, source = floats(out, "out", n_rows), floats(qkv, "qkv", n_rows)
        states, places = (
            array_of(state, "state"),
            StatePlaces.of(positions, sequence, page_table, page_size, n_rows),
        )
        _, n_heads, key_dim, value_dim = states.shape
        key_heads = (np.arange(n_heads) + head_offset) // group
        need_columns(to, "out", n_heads * value_dim)
        need_columns(source, "qkv", 2 * (int(key_heads[-1]) + 1) * key_dim + n_heads * value_dim)
        beta, alpha = np.split(
            first_columns(floats(gates, "gates", n_rows), "gates", first_gate, 2 * n_heads), 2, axis=1
        )
        rate, bias = vector(log_rate, "log_rate"), vector(dt_bias, "dt_bias")
        if len(rate) != n_heads or len(bias) != n_heads:
            raise ValueError(f"log_rate and dt_bias must have {n_heads} elements")
        operands = DeltaOperands(source, beta, alpha, rate, bias, states, key_heads)
        self.carry_out(lambda: recur(to, operands, places))

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
        source = floats(logits, "logits", n_rows)

        def operation() -> None:
            places, values, totals = oracle.top_candidates(source, largest.shape[1], temperature)
            ids[:n_rows], largest[:n_rows], sums[:] = places + first_id, values, totals

        self.carry_out(operation)


def _product(weights: Float32, x: Float32) -> Float32:
    """x [T, n_in] @ weights.T, row by row: in one product a row's bits would depend on the others."""
    return np.array([weights @ row for row in x], np.float32).reshape(len(x), len(weights))


def _values(matrix: Matrix) -> Float32:
    if not isinstance(matrix, ReferenceMatrix):
        raise TypeError("matrix must be one of the reference device")
    return matrix.values
