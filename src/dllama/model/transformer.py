"""The forward pass of one rank: every family, any number of ranks, rows of any number of sequences.

T rows of the step, D model width, H query heads, K KV heads, E head width, F FFN width, V vocabulary;
`_local` is this rank's span.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
from numpy.typing import NDArray

from dllama.dtypes import BLOCK, ElementType
from dllama.fabric import Fabric
from dllama.families import ModelConfig, RopeStyle
from dllama.kernels import BoundArray, Compute, Program, Q80Rows
from dllama.model.all_reduce import ReducePlan, wire_row_bytes
from dllama.model.batch import StepBatch
from dllama.model.candidates import RankCandidates, edit_logits, select_candidates
from dllama.model.inputs import Inputs
from dllama.model.kv_cache import KvCache
from dllama.model.logits import LogitRows
from dllama.model.partial_sums import PartialSums, RowSums
from dllama.model.rope import rope_table
from dllama.model.trace import SpanName, Trace
from dllama.model.weights import LayerWeights, ModelWeights
from dllama.sharding import RankSpans

Rows = Q80Rows | BoundArray
"""The input of a matrix product: quantised for Q40 and Q80 weights, float32 for F16 and F32."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class StepLimits:
    """What the buffers are made for; the same on every rank."""

    max_rows: int
    max_logit_rows: int
    max_positions: int
    wire: ElementType
    timeout_s: float

    def most_pages(self, page_size: int) -> int:
        """The most pages that one sequence can have."""
        return -(-self.max_positions // page_size)


@dataclasses.dataclass(frozen=True)
class RowPlaces:
    """Where rows stand in their sequences (see StepBatch), as operations take them."""

    positions: BoundArray
    sequence: BoundArray
    page_table: BoundArray


@dataclasses.dataclass(frozen=True)
class RunPrograms:
    """What is computed of some rows of a step between their all-reduces: one program each for every layer."""

    sums: RowSums
    attention: list[Program]
    feed_forward: list[Program]
    end: Program


_KEPT_STEPS = 32
"""Numbers of rows whose programs are kept: those of decoding, and the usual parts of prompts."""


class Transformer:
    """Weights, KV cache and buffers of one rank."""

    def __init__(
        self,
        compute: Compute,
        config: ModelConfig,
        spans: RankSpans,
        weights: ModelWeights,
        cache: KvCache,
        fabric: Fabric,
        limits: StepLimits,
        reduce_plan: ReducePlan,
    ) -> None:
        self._compute, self._config, self._weights, self._cache = compute, config, weights, cache
        self._n_heads = len(spans.heads)
        self._n_kv_heads = len(spans.kv_heads)
        self._head_offset = spans.heads.start - spans.kv_heads.start * config.group
        self._limits = limits
        self._rope = BoundArray(rope_table(config, limits.max_positions))

        n_rows, n_q, n_ffn = limits.max_rows, self._n_heads * config.head_dim, len(spans.ffn)
        n_qkv = n_q + 2 * self._n_kv_heads * config.head_dim
        self._x = np.empty((n_rows, config.dim), np.float32)  # residual stream
        partial = np.empty((n_rows if fabric.n_ranks > 1 else 0, config.dim), np.float32)
        self.trace = Trace()
        self.sums = PartialSums(
            compute, fabric, self._x, partial, limits.wire, reduce_plan, limits.timeout_s, self.trace
        )
        self._normed = self._rows(n_rows, config.dim)
        self._qkv = _floats(n_rows, n_qkv)
        self._attended = self._rows(n_rows, n_q)
        self._mixed = _floats(n_rows, n_q) if _mixes_floats(config) else self._attended
        self._gate_up = _floats(n_rows, 2 * n_ffn)
        self._activated = self._rows(n_rows, n_ffn)
        self._logits = np.empty((limits.max_logit_rows, len(spans.vocab)), np.float32)
        self._first_id = spans.vocab.start
        self._n_rows, self._n_logits = 0, 0  # of the last step

        self._positions = np.zeros(n_rows, np.int32)
        self._sequence = np.zeros(n_rows, np.int32)
        self._page_table = np.zeros((n_rows, limits.most_pages(cache.page_size)), np.int32)
        self._steps: dict[int, list[RunPrograms]] = {}

    def forward(self, batch: StepBatch, inputs: Inputs) -> RankCandidates:
        """What batch.wanted asks for, of this rank's part of the vocabulary.

        `inputs` [T, D] are the embedded tokens. Stores the keys and values of all rows in the cache.
        Raises PeerError when a rank is lost; the cache then holds part of the step.
        """
        self._n_rows, self._n_logits = batch.n_rows, len(batch.wanted.rows)
        trace, start_s = self.trace, self.trace.clock()
        x = self._x[: batch.n_rows]
        self._place(batch)
        runs = self._steps.get(batch.n_rows) or self._prepare(batch.n_rows)
        for run in runs:
            run.sums.bring(inputs)
        for index in range(self._config.n_layers):
            for run in runs:
                span_s = trace.clock()
                run.sums.wait()
                run.attention[index].run()
                run.sums.send()  # x += all-reduce of partial
                trace.add(SpanName.ATTENTION, span_s, index)
            for run in runs:
                span_s = trace.clock()
                run.sums.wait()
                run.feed_forward[index].run()
                run.sums.send()  # x += all-reduce of partial
                trace.add(SpanName.FEED_FORWARD, span_s, index)
        for run in runs:
            run.sums.wait()
            run.end.run()
        span_s = trace.clock()
        candidates = self._head(x, batch.wanted)
        trace.add(SpanName.HEAD, span_s)
        trace.add(SpanName.STEP, start_s)
        return candidates

    @property
    def logits(self) -> NDArray[np.float32]:
        """[N, V_local] of the rows wanted by the last step, after edits and masks; the next step overwrites it."""
        return self._logits[: self._n_logits]

    def hidden(self) -> NDArray[np.float32]:
        """[T, D]: all rows of the last step after the final norm, a copy. The same on every rank."""
        normed = np.empty((self._n_rows, self._config.dim), np.float32)
        final_norm, eps = self._weights.final_norm, self._config.norm_eps
        self._compute.rms_norm(normed, self._x[: self._n_rows], final_norm, eps, self._n_rows)
        return normed

    def close(self) -> None:
        """Gives its memory back, and ends its thread; to be called once, when the fabric has been closed."""
        self._steps.clear()
        self.sums.close()
        del (
            self._weights,
            self._cache,
            self._rope,
            self._x,
            self._normed,
            self._qkv,
            self._attended,
            self._mixed,
        )
        del self._gate_up, self._activated, self._logits, self._page_table

    def _place(self, batch: StepBatch) -> None:
        """Where the programs find the rows of this step."""
        n_rows, (n_sequences, n_pages) = batch.n_rows, batch.page_table.shape
        self._positions[:n_rows] = batch.positions
        self._sequence[:n_rows] = batch.sequence
        self._page_table[:n_sequences, :n_pages] = batch.page_table

    def _prepare(self, n_rows: int) -> list[RunPrograms]:
        """The programs of a step, in one run or in two: where sums take long to travel, one run's are on their way
        while the other is computed."""
        if len(self._steps) == _KEPT_STEPS:
            self._steps.pop(next(iter(self._steps)))
        self._steps[n_rows] = [self._record(run) for run in self.sums.runs(n_rows)]
        return self._steps[n_rows]

    def _record(self, run: RowSums) -> RunPrograms:
        record, layers = self._compute.record, self._weights.layers
        rows = RowPlaces(
            BoundArray(self._positions[run.rows]),
            BoundArray(self._sequence[run.rows]),
            BoundArray(self._page_table),
        )
        return RunPrograms(
            run,
            [record(self._attention, index, run, rows) for index in range(len(layers))],
            [record(self._feed_forward, layer, run) for layer in layers],
            record(run.add),
        )

    def _attention(self, index: int, run: RowSums, rows: RowPlaces) -> None:
        compute, config, n_rows, qkv = self._compute, self._config, run.n_rows, self._qkv
        layer, (keys, values) = self._weights.layers[index], self._cache.bound[index]
        if index > 0:
            run.add_norm(self._normed, layer.attention_norm, config.norm_eps)  # x of these rows is complete
        else:
            compute.rms_norm(self._normed, run.x, layer.attention_norm, config.norm_eps, n_rows)
        compute.matmul(qkv, layer.qkv, self._normed, n_rows)  # [T, (H_local + 2 K_local) E]
        if layer.qkv_bias is not None:
            compute.add_bias(qkv, layer.qkv_bias, n_rows)
        if layer.q_norm is not None and layer.k_norm is not None:
            compute.head_rms_norm(qkv, layer.q_norm, config.norm_eps, 0, self._n_heads, n_rows)
            compute.head_rms_norm(qkv, layer.k_norm, config.norm_eps, self._n_heads, self._n_kv_heads, n_rows)
        compute.rope_store(
            qkv, self._rope, rows.positions, rows.sequence, rows.page_table, keys, values,
            self._n_heads, config.rope_style is RopeStyle.HALVES, n_rows,
        )  # fmt: skip
        compute.attention(
            self._mixed, qkv, rows.positions, rows.sequence, rows.page_table, keys, values,
            self._n_heads, self._head_offset, config.group, config.sliding_window or 0, n_rows,
        )  # fmt: skip
        if isinstance(self._attended, Q80Rows) and isinstance(self._mixed, BoundArray):
            compute.quantize_rows(self._attended, self._mixed, n_rows)
        compute.matmul(run.out, layer.o, self._attended, n_rows, run.adds)  # [T, D], this rank's heads
        run.encode()

    def _feed_forward(self, layer: LayerWeights, run: RowSums) -> None:
        compute, config, n_rows = self._compute, self._config, run.n_rows
        run.add_norm(self._normed, layer.ffn_norm, config.norm_eps)  # x of these rows is complete
        # act(gate) * up: [T, F_local], by way of [T, 2 F_local] for a few rows
        compute.gated_matmul(
            self._activated, layer.gate_up, self._normed, self._gate_up, n_rows, config.activation
        )
        compute.matmul(run.out, layer.down, self._activated, n_rows, run.adds)  # [T, D], this rank's columns
        run.encode()

    def _head(self, x: NDArray[np.float32], wanted: LogitRows) -> RankCandidates:
        if len(wanted.rows):
            chosen = np.ascontiguousarray(x[wanted.rows])
            final_norm, eps = self._weights.final_norm, self._config.norm_eps
            self._compute.rms_norm(self._normed, chosen, final_norm, eps, len(chosen))
            self._compute.matmul(self._logits, self._weights.head, self._normed, len(chosen))  # [N, V_local]
            edit_logits(self.logits, wanted, self._first_id)
        return select_candidates(self._compute, self.logits, wanted, self._first_id)

    def _rows(self, n_rows: int, n: int) -> Rows:
        if self._config.weight_type.is_blocked:
            return Q80Rows(n_rows, n)
        return _floats(n_rows, n)


def _floats(n_rows: int, n: int) -> BoundArray:
    return BoundArray(np.empty((n_rows, n), np.float32))


def _mixes_floats(config: ModelConfig) -> bool:
    """Whether attention's values are quantised by themselves, as where heads are not whole blocks."""
    return config.weight_type.is_blocked and config.head_dim % BLOCK != 0


def buffer_row_bytes(config: ModelConfig, spans: RankSpans, n_ranks: int, wire: ElementType) -> int:
    """Bytes that the buffers of Transformer take for each row of a step."""
    n_q = len(spans.heads) * config.head_dim
    n_qkv = n_q + 2 * len(spans.kv_heads) * config.head_dim
    n_ffn = len(spans.ffn)
    floats = config.dim + n_qkv + 2 * n_ffn + (n_q if _mixes_floats(config) else 0)
    floats += config.dim if n_ranks > 1 else 0
    inputs = config.dim + n_q + n_ffn
    input_bytes = inputs * (1 + 8 / 32 if config.weight_type.is_blocked else 4)
    return math.ceil(4 * floats + input_bytes + n_ranks * wire_row_bytes(config.dim, wire))
