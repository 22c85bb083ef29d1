"""The forward pass of one rank: every family, any number of ranks, rows of any number of sequences.

What a layer computes stands in the file of its kind (model/layers/). T rows of the step, D model width, V vocabulary;
`_local` is this rank's span.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from dllama.dtypes import ElementType
from dllama.fabric import Fabric
from dllama.kernels import Buffer, Device, Program, Rows
from dllama.model.all_reduce import ReducePlan, wire_row_bytes
from dllama.model.batch import StepBatch
from dllama.model.candidates import RankCandidates, edit_logits, select_candidates
from dllama.model.config import ModelConfig
from dllama.model.inputs import Inputs
from dllama.model.kv_cache import KvCache
from dllama.model.layers import (
    AnyShape,
    FeedForward,
    LayerWeights,
    Mixer,
    RowPlaces,
    Workspace,
    normed_buffer,
    normed_buffers,
)
from dllama.model.logits import LogitRows
from dllama.model.norm import Norm
from dllama.model.page_tables import PageTables
from dllama.model.partial_sums import PartialSums, RowSums
from dllama.model.rope import Angles, rope_table
from dllama.model.states import States
from dllama.model.tensors import VOCABULARY, ModelSpec
from dllama.model.trace import SpanName, Trace
from dllama.model.weights import ModelWeights
from dllama.sharding import RankSpans


@dataclasses.dataclass(frozen=True, kw_only=True)
class StepLimits:
    """What the buffers are made for; the same on every rank."""

    max_rows: int
    max_logit_rows: int
    max_positions: int
    wire: ElementType
    timeout_s: float


@dataclasses.dataclass(frozen=True)
class RunPrograms:
    """What is computed of some rows of a step between their all-reduces: one program each for every layer."""

    sums: RowSums
    mixers: list[Program]
    feed_forwards: list[Program]
    end: Program


@dataclasses.dataclass(frozen=True)
class LayerInputs:
    """What the norms of a layer write: [T, D] for each way in which the matrices behind them take it."""

    mixer: list[Rows]
    feed_forward: list[Rows]


@dataclasses.dataclass(frozen=True)
class LayerNorms:
    """Before each part of a layer, and after it, where there is one."""

    mixer: Norm
    after_mixer: Norm | None
    feed_forward: Norm
    after_feed_forward: Norm | None


_KEPT_STEPS = 32
"""Numbers of rows whose programs are kept: those of decoding, and the usual parts of prompts."""


class Transformer:
    """Weights, KV cache, states and buffers of one rank."""

    def __init__(
        self,
        device: Device,
        model: ModelSpec,
        spans: RankSpans,
        weights: ModelWeights,
        cache: KvCache,
        fabric: Fabric,
        limits: StepLimits,
        reduce_plan: ReducePlan,
    ) -> None:
        config = model.config
        self._device, self._model, self._config = device, model, config
        self._weights, self._cache = weights, cache
        self._states = States(device, config, spans, cache.shape)
        self._memory = [of or cache.layers[index] for index, of in enumerate(self._states.layers)]
        self._angles: dict[Angles | None, Buffer] = {
            of: _table(device, rope_table(of, limits.max_positions)) for of in _angles(model)
        }
        n_rows, vocabulary = limits.max_rows, spans[VOCABULARY]
        self._x = device.buffer(n_rows, config.dim)  # residual stream
        partial = device.buffer(n_rows if _has_partial(config, fabric.n_ranks) else 0, config.dim)
        self.trace = Trace()
        self.sums = PartialSums(
            device, fabric, self._x, partial, limits.wire, reduce_plan, limits.timeout_s, self.trace,
            input_scale=config.embedding_scale, norms=_norms_sums(config),
        )  # fmt: skip
        self._workspace = Workspace(
            device,
            rank=fabric.rank,
            spans=spans,
            dim=config.dim,
            eps=config.norm_eps,
            buffers=_buffers(model, spans),
            max_rows=n_rows,
        )
        self._inputs = [self._normed(index) for index in range(config.n_layers)]
        self._head_weights = weights.head
        self._head_input = self._workspace.normed(self._head_weights.dtype)
        self._norms = self._all_norms()
        self._final_norm = Norm.named("final_norm", weights.outer, config.norm_eps)
        self._logits = device.buffer(limits.max_logit_rows, len(vocabulary))
        self._first_id = vocabulary.start
        self._n_rows, self._n_logits = 0, 0  # of the last step

        self._positions = np.zeros(n_rows, np.int32)
        self._sequence = np.zeros(n_rows, np.int32)
        self._page_tables = PageTables(cache.shape, n_rows, limits.max_positions)
        self._steps: dict[int, list[RunPrograms]] = {}

    def forward(self, batch: StepBatch, inputs: Inputs) -> RankCandidates:
        """What batch.wanted asks for, of this rank's part of the vocabulary.

        `inputs` [T, D] are the embedded tokens. Stores the keys and values of all rows in the cache.
        Raises PeerError when a rank is lost; the cache then holds part of the step.
        """
        self._n_rows, self._n_logits = batch.n_rows, len(batch.wanted.rows)
        trace, start_s = self.trace, self.trace.clock()
        self._place(batch)
        runs = self._steps.get(batch.n_rows) or self._prepare(batch.n_rows)
        for run in runs:
            run.sums.bring(inputs)
        for index in range(self._config.n_layers):
            for run in runs:
                span_s = trace.clock()
                run.sums.wait()
                run.mixers[index].run()
                run.sums.send()  # x += all-reduce of partial
                trace.add(SpanName.ATTENTION, span_s, index)
            for run in runs:
                span_s = trace.clock()
                run.sums.wait()
                run.feed_forwards[index].run()
                run.sums.send()  # x += all-reduce of partial
                trace.add(SpanName.FEED_FORWARD, span_s, index)
        for run in runs:
            run.sums.wait()
            run.end.run()
        span_s = trace.clock()
        candidates = self._head(batch.wanted)
        trace.add(SpanName.HEAD, span_s)
        trace.add(SpanName.STEP, start_s)
        return candidates

    @property
    def logits(self) -> NDArray[np.float32]:
        """[N, V_local] of the rows wanted by the last step, after edits and masks; the next step overwrites it."""
        view, wanted = self._device.view(self._logits), slice(0, self._n_logits)
        view.pull(wanted)
        return view.array[wanted]

    @property
    def residual(self) -> NDArray[np.float32]:
        """[T, D]: all rows of the last step behind the last layer, before the norm; the next step overwrites it."""
        view, rows = self._device.view(self._x), slice(0, self._n_rows)
        view.pull(rows)
        return view.array[rows]

    def hidden(self) -> NDArray[np.float32]:
        """[T, D]: all rows of the last step after the final norm, a copy. The same on every rank."""
        normed = self._device.buffer(self._n_rows, self._config.dim)
        self._final_norm.compute(self._device, normed, self._x, self._n_rows)
        view = self._device.view(normed)
        view.pull()
        return view.array

    def close(self) -> None:
        """Gives its memory back, and ends its thread; to be called once, when the fabric has been closed."""
        self._steps.clear()
        self._angles.clear()
        self._inputs.clear()
        self._norms.clear()
        self._workspace.close()
        self.sums.close()
        self._memory.clear()
        self._states.close()
        del self._weights, self._cache, self._x, self._logits, self._page_tables, self._head_input
        del self._final_norm, self._head_weights

    def _place(self, batch: StepBatch) -> None:
        """Where the programs find the rows of this step."""
        self._positions[: batch.n_rows] = batch.positions
        self._sequence[: batch.n_rows] = batch.sequence
        self._page_tables.place(batch)

    def _prepare(self, n_rows: int) -> list[RunPrograms]:
        """The programs of a step, in one run or in two: where sums take long to travel, one run's are on their way
        while the other is computed."""
        if len(self._steps) == _KEPT_STEPS:
            self._steps.pop(next(iter(self._steps)))
        self._steps[n_rows] = [self._record(run) for run in self.sums.runs(n_rows)]
        return self._steps[n_rows]

    def _record(self, run: RowSums) -> RunPrograms:
        record, bind, layers = self._device.record, self._device.bind, range(self._config.n_layers)
        positions, sequence = bind(self._positions[run.rows]), bind(self._sequence[run.rows])
        page_size = self._cache.shape.page_size
        rows = [RowPlaces(positions, sequence, bind(table), page_size) for table in self._page_tables.tables]
        return RunPrograms(
            run,
            [record(self._mix, index, run, rows) for index in layers],
            [record(self._feed_forward, index, run) for index in layers],
            record(run.add, self._norms[-1].after_feed_forward),
        )

    def _mix(self, index: int, run: RowSums, of_groups: list[RowPlaces]) -> None:
        """`of_groups`: where the rows stand in the pages of each group."""
        mixer, weights = self._config.layer(index).mixer, self._weights.layers[index]
        inputs, norm = self._inputs[index].mixer, self._norms[index].mixer
        if index > 0:
            self._add_norm(run, inputs, norm, self._norms[index - 1].after_feed_forward)
        else:
            self._norm(run, inputs, norm)
        memory, angles = self._memory[index], self._angles.get(mixer.angles)
        rows = of_groups[self._cache.shape.group_of(mixer.window)]
        mixer.compute(self._workspace, weights, memory, angles, run, rows)  # this rank's part of [T, D]
        run.encode()

    def _feed_forward(self, index: int, run: RowSums) -> None:
        feed_forward, weights = self._config.layer(index).feed_forward, self._weights.layers[index]
        norms = self._norms[index]
        self._add_norm(run, self._inputs[index].feed_forward, norms.feed_forward, norms.after_mixer)
        feed_forward.compute(self._workspace, weights, run)  # this rank's part of [T, D]
        run.encode()

    def _add_norm(self, run: RowSums, outs: list[Rows], norm: Norm, after: Norm | None) -> None:
        """x += the sum of the parts, after its own norm if there is one: x of these rows is complete. Then each of
        `outs` := x after the norm."""
        run.add_norm(outs[0], norm, after)
        self._norm(run, outs[1:], norm)

    def _norm(self, run: RowSums, outs: list[Rows], norm: Norm) -> None:
        for out in outs:
            norm.compute(self._device, out, run.x, run.n_rows)

    def _all_norms(self) -> list[LayerNorms]:
        """Those of each layer."""

        def norm(weights: LayerWeights, name: str) -> Norm | None:
            vectors = weights.vectors
            return Norm.named(name, vectors, self._config.norm_eps) if name in vectors else None

        norms = []
        for weights in self._weights.layers:
            mixer, feed_forward = norm(weights, "attention_norm"), norm(weights, "ffn_norm")
            assert mixer is not None
            assert feed_forward is not None
            after = norm(weights, "post_attention_norm"), norm(weights, "post_ffn_norm")
            norms.append(LayerNorms(mixer, after[0], feed_forward, after[1]))
        return norms

    def _normed(self, index: int) -> LayerInputs:
        layer, type_of = self._config.layer(index), self._weights.layers[index].type_of

        def rows(part: Mixer | FeedForward) -> list[Rows]:
            buffers = normed_buffers(self._config.dim, part.tensors(self._config.dim, type_of))
            return [self._workspace[buffer] for buffer in buffers]

        return LayerInputs(rows(layer.mixer), rows(layer.feed_forward))

    def _head(self, wanted: LogitRows) -> RankCandidates:
        device, n = self._device, len(wanted.rows)
        if n:
            normed = self._head_input
            chosen = self._x if n == self._n_rows else device.take(self._x, wanted.rows)
            self._final_norm.compute(device, normed, chosen, n)
            device.matmul(self._logits, self._head_weights, normed, n)  # [N, V_local]
            scale, cap = self._config.logit_scale, self._config.logit_soft_cap
            if scale != 1 or cap is not None:
                device.soft_cap(self._logits, scale, cap or 0.0, n)
            if wanted.edits is not None or wanted.masks is not None:
                edit_logits(self.logits, wanted, self._first_id)
                device.view(self._logits).push(slice(0, n))
        return select_candidates(device, self._logits, wanted, self._first_id)


def _table(device: Device, values: NDArray[np.float32]) -> Buffer:
    """A buffer with these values."""
    buffer = device.buffer(*values.shape)
    view = device.view(buffer)
    view.array[:] = values
    view.push()
    return buffer


def _angles(model: ModelSpec) -> list[Angles]:
    """Those that there are, each once."""
    of_kinds = (layer.mixer.angles for layer in model.config.kinds)
    return list(dict.fromkeys(angles for angles in of_kinds if angles is not None))


def _norms_sums(config: ModelConfig) -> bool:
    return any(layer.norms_after for layer in config.kinds)


def _has_partial(config: ModelConfig, n_ranks: int) -> bool:
    """Whether products go anywhere before they are added to the residual stream."""
    return n_ranks > 1 or _norms_sums(config)


def _buffers(model: ModelSpec, spans: RankSpans) -> list[AnyShape]:
    """All that a rank computes a step in, each once."""
    dim = model.config.dim
    buffers: dict[AnyShape, None] = {normed_buffer(dim, model.types.outer["head"]): None}
    for layer, type_of in model.layer_kinds():
        buffers |= dict.fromkeys(layer.buffers(dim, spans, type_of))
    return list(buffers)


def buffer_row_bytes(model: ModelSpec, spans: RankSpans, n_ranks: int, wire: ElementType) -> int:
    """Bytes that the buffers of Transformer take for each row of a step."""
    dim = model.config.dim
    residual = 4 * dim * (2 if _has_partial(model.config, n_ranks) else 1)
    wires = n_ranks * wire_row_bytes(dim, wire)
    return residual + sum(buffer.row_bytes for buffer in _buffers(model, spans)) + wires


def table_bytes(model: ModelSpec, n_positions: int) -> int:
    """Bytes of the angles of all ropes."""
    return sum(4 * n_positions * angles.head_dim for angles in _angles(model))
