"""The root: calls its workers, plans, loads, and computes steps together with them."""

from __future__ import annotations

import contextlib
import dataclasses
import secrets
import time
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from dllama.checkpoint import Checkpoint
from dllama.dtypes import ElementType
from dllama.errors import NumericalError, PeerError, PeerLostError
from dllama.fabric import PEER_TIMEOUT_S, Fabric, Job, gather, send_frame, send_frames
from dllama.kernels import Device
from dllama.model import (
    VOCABULARY,
    Algorithm,
    CacheShape,
    CacheStorage,
    Candidates,
    Inputs,
    LogitRows,
    ModelConfig,
    ModelSpec,
    RankCandidates,
    ReducePlan,
    SpanName,
    StepBatch,
    cache_bytes,
    context_bytes,
    merge_candidates,
)
from dllama.node.crew import Crew, await_all, greet_crew
from dllama.node.greeting import Address
from dllama.node.info import NodeInfo, NodeRecords
from dllama.node.input_rows import encode_inputs, step_inputs
from dllama.node.loading import send_weights
from dllama.node.machine import available_memory_bytes, machine_id, peak_rss_bytes
from dllama.node.memory import check_memory, large_step_bytes, node_memory, session_shape
from dllama.node.messages import Kind, PeakMemory, SessionPlan, Welcome
from dllama.node.rank import NodeSettings, RankMemory
from dllama.node.reduce_agreement import choose_reduce
from dllama.node.shortage import shortages_told
from dllama.node.step_message import answer_bytes, decode_answer, encode_steps
from dllama.node.timing import NodeTimes, StepTimer, Timeline
from dllama.node.tracing import ClusterTrace
from dllama.sharding import ShardPlan, Span, plan_spans

STEP_TIMEOUT_S = 60.0
"""Longest time without a byte while a peer that is alive owes some: far more than a layer takes on a slow device."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClusterOptions:
    """`shares` has one number for each node, the root first. The cache has room for `n_sequences` texts of
    `max_seq_len` tokens; `n_parallel`, shorter ones perhaps, are at work at once. `wire` is the type of partial sums
    that travel. With a `job` its other processes are the workers, and there are no addresses."""

    workers: tuple[Address, ...]
    shares: tuple[float, ...]
    max_seq_len: int
    n_sequences: int
    n_parallel: int
    wire: ElementType
    cache_type: ElementType
    node: NodeSettings
    all_reduce: Algorithm = Algorithm.AUTO
    timeout_s: float = STEP_TIMEOUT_S
    peer_timeout_s: float = PEER_TIMEOUT_S
    job: Job | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class StepTimes:
    """One step as the root saw it: computing, waiting for others, and its own bytes."""

    eval_s: float
    sync_s: float
    sent_bytes: int
    received_bytes: int


class Cluster:
    """An Executor (see engine/): this node and its workers, with a model loaded.

    After a PeerError it is of no use but to be closed.
    """

    def __init__(
        self,
        plan: SessionPlan,
        checkpoint: Checkpoint,
        fabric: Fabric,
        memory: RankMemory,
        reduce_plan: ReducePlan,
        load_sent_bytes: list[int],
        welcomes: Sequence[Welcome],
        names: Sequence[str],
    ) -> None:
        """See `open`, which makes one. Takes fabric and memory over, not the checkpoint. `welcomes`: what each node
        said of itself, the root too; `names`: what people call each worker."""
        self._plan = plan
        self._checkpoint = checkpoint
        self._fabric = fabric
        self._memory = memory
        self._transformer = memory.transformer(fabric, reduce_plan)
        self.reduce_plan = reduce_plan
        self.load_sent_bytes = load_sent_bytes  # to each rank
        self.last_step = StepTimes(eval_s=0.0, sync_s=0.0, sent_bytes=0, received_bytes=0)
        self.n_whole_logits = 0  # how often candidates did not reach
        self.timeline = Timeline()
        self._timer = StepTimer(fabric, self._transformer)
        self._names = ("root", *names)
        self._records = NodeRecords(plan, self._names, welcomes)
        self._step_end_s: float | None = None  # of the last traced step
        self._whole_logits: NDArray[np.float32] | None = None

    @classmethod
    def open(
        cls,
        checkpoint: Checkpoint,
        device: Device,
        options: ClusterOptions,
        on_progress: Callable[[int, int], None],
    ) -> Cluster:
        """Brings the model up on all nodes. `on_progress(done, total)` counts bytes of weights on all of them.

        Raises PeerError for the first worker that does not join, NotEnoughMemoryError before anything is
        allocated, UsageError for what cannot be split, NumericalError or ModelFileError for bad weights; all
        connections are closed then.
        """
        session = secrets.token_hex(16)
        shards = plan_spans(checkpoint.model.axes, options.shares)
        with shortages_told(), contextlib.ExitStack() as stack:
            crew = stack.enter_context(contextlib.closing(greet_crew(options.workers, options.job, session)))
            welcomes = [_own_welcome(device, options.node), *crew.welcomes]
            most_threads = max(welcome.n_threads for welcome in welcomes)
            plan = _session_plan(session, checkpoint.model, shards, options, crew, most_threads)
            names = crew.names
            check_memory(
                [
                    node_memory(names[rank], welcome, dataclasses.replace(plan, rank=rank))
                    for rank, welcome in enumerate(welcomes)
                ]
            )
            memory = stack.enter_context(contextlib.closing(RankMemory(device, plan, options.node)))
            fabric = crew.join(
                Kind.PLAN,
                lambda rank: dataclasses.replace(plan, rank=rank).encode(),
                plan.limits.timeout_s,
                plan.peer_timeout_s,
            )
            stack.enter_context(contextlib.closing(fabric))
            # MPI moves bytes only while it is asked, and a thread that asks takes the core from what is computed.
            large_bytes = None if options.job else large_step_bytes(checkpoint.config, plan.limits)
            reduce_plan = choose_reduce(fabric, options.all_reduce, options.timeout_s, large_bytes)
            load_sent_bytes = _load(checkpoint, plan, fabric, memory, on_progress)
            cluster = cls(
                plan, checkpoint, fabric, memory, reduce_plan, load_sent_bytes, welcomes, crew.names[1:]
            )
            stack.pop_all()
            return cluster

    @property
    def model(self) -> ModelSpec:
        return self._plan.model

    @property
    def config(self) -> ModelConfig:
        return self._plan.config

    @property
    def cache(self) -> CacheShape:
        return self._plan.cache

    @property
    def max_rows(self) -> int:
        return self._plan.limits.max_rows

    @property
    def max_logit_rows(self) -> int:
        return self._plan.limits.max_logit_rows

    @property
    def n_nodes(self) -> int:
        return self._plan.shards.n_ranks

    def read_bytes(self, n_rows: int) -> int:
        """Bytes of this node's own shards that a step of so many rows reads: of experts, those that are chosen."""
        return self._plan.model.read_bytes(self._plan.shards.ranks[0], n_rows)

    @property
    def kv_bytes(self) -> int:
        """Bytes of this node's own part of the KV cache."""
        return cache_bytes(self._plan.config, self._plan.shards.ranks[0], self._plan.cache)

    def context_bytes(self, n_positions: int) -> int:
        """Bytes of this node's own part of the KV cache that a row with so many positions before it reads of them."""
        return context_bytes(
            self._plan.config, self._plan.shards.ranks[0], self._plan.cache.dtype, n_positions
        )

    @property
    def sent_bytes(self) -> list[int]:
        """Bytes sent to each rank so far."""
        return self._fabric.sent_bytes

    def node_name(self, rank: int) -> str:
        """The address of a worker as it was given, or what its fabric calls it; "root" for this node."""
        return self._names[rank]

    def step(self, batch: StepBatch) -> Candidates:
        """See Executor.step."""
        self._timer.start()
        trace = self._transformer.trace
        if self._step_end_s is not None:
            trace.add(SpanName.SAMPLING, self._step_end_s)
        sent, received = sum(self._fabric.sent_bytes), sum(self._fabric.received_bytes)
        self._whole_logits = None
        own = self._transformer.forward(batch, self._announce(batch))
        computed = time.perf_counter()
        answers = self._gather_answers(batch.wanted)
        times = self._timer.stop(time.perf_counter() - computed)
        candidates = merge_candidates([own, *(part for _, part in answers)], batch.wanted)
        self.timeline.add([times, *(of_worker for of_worker, _ in answers)])
        self.last_step = StepTimes(
            eval_s=times.compute_s,
            sync_s=times.wait_s + times.wire_s,
            sent_bytes=sum(self._fabric.sent_bytes) - sent,
            received_bytes=sum(self._fabric.received_bytes) - received,
        )
        self._step_end_s = trace.clock() if trace.is_on else None
        return candidates

    def check(self) -> None:
        """See Executor.check."""
        for rank, loss in self._fabric.losses.items():
            raise PeerLostError(
                f"lost {self._fabric.peer_name(rank)} (rank {rank}): {loss.reason}; see whether it runs"
            )

    def whole_logits(self) -> NDArray[np.float32]:
        """See Executor.whole_logits. Fetched once for each step."""
        if self._whole_logits is None:
            self.n_whole_logits += 1
            own = self._transformer.logits
            parts = [own.copy()] + [np.empty((len(own), len(span)), np.float32) for span in self._vocab[1:]]
            send_frame(self._fabric, self._workers, Kind.LOGITS, timeout_s=self._timeout_s)
            gather(self._fabric, own, parts, 0, self._timeout_s)
            self._whole_logits = np.concatenate(parts, axis=1)
        return self._whole_logits

    def hidden(self) -> NDArray[np.float32]:
        """See Executor.hidden."""
        return self._transformer.hidden()

    def begin_trace(self) -> ClusterTrace:
        """Traces the steps of all nodes from now on. Raises PeerError."""
        return ClusterTrace(self._fabric, self._transformer.trace, self._timeout_s)

    def nodes(self) -> list[NodeInfo]:
        """All nodes in rank order, from what the root has at hand: nothing travels. May be called from any thread."""
        return self._records.now(self._fabric, self.timeline)

    def peak_rss_bytes(self) -> list[int]:
        """The most memory of each node's process that was resident so far, in rank order. Raises PeerError."""
        send_frame(self._fabric, self._workers, Kind.STATUS, timeout_s=self._timeout_s)
        answers = await_all(self._fabric, Kind.STATUS, self._timeout_s)
        peaks = [
            PeakMemory.decode(answer, self.node_name(rank)) for rank, answer in enumerate(answers, start=1)
        ]
        return [peak_rss_bytes(), *(peak.peak_rss_bytes for peak in peaks)]

    def close(self) -> None:
        """Ends the session; workers go on to their next root."""
        with contextlib.suppress(PeerError):
            send_frame(self._fabric, self._workers, Kind.END, timeout_s=1.0)
        self._fabric.close()
        self._memory.close()

    @property
    def _workers(self) -> range:
        return range(1, self._fabric.n_ranks)

    @property
    def _timeout_s(self) -> float:
        return self._plan.limits.timeout_s

    @property
    def _vocab(self) -> list[Span]:
        return [spans[VOCABULARY] for spans in self._plan.shards.ranks]

    def _announce(self, batch: StepBatch) -> Inputs:
        """Tells all workers of the step; returns the root's own inputs of it."""
        embedded = self._checkpoint.embed(batch.token_ids)
        if self._fabric.n_ranks == 1:
            return embedded
        inputs = encode_inputs(embedded)
        payloads = dict(zip(self._workers, encode_steps(batch, inputs, self._vocab[1:]), strict=True))
        send_frames(self._fabric, Kind.STEP, payloads, timeout_s=self._timeout_s)
        return step_inputs(inputs, self._fabric) if inputs.travel_apart else embedded

    def _gather_answers(self, wanted: LogitRows) -> list[tuple[NodeTimes, RankCandidates]]:
        """What each worker answers to a step."""
        if self._fabric.n_ranks == 1:
            return []
        answers = [bytearray(answer_bytes(wanted, span)) for span in self._vocab]
        gather(self._fabric, b"", answers, 0, self._timeout_s)
        return [
            decode_answer(answers[rank], wanted, self._vocab[rank], self._fabric.peer_name(rank))
            for rank in self._workers
        ]


def _own_welcome(device: Device, node: NodeSettings) -> Welcome:
    """What a worker would say of this node."""
    return Welcome(
        machine=machine_id(),
        available_bytes=available_memory_bytes(),
        n_threads=device.n_threads,
        isa=device.isa,
        kv_on_disk=node.kv_storage is CacheStorage.DISK,
    )


def _session_plan(
    session: str,
    model: ModelSpec,
    shards: ShardPlan,
    options: ClusterOptions,
    crew: Crew,
    most_threads: int,
) -> SessionPlan:
    """The root's own plan; the workers' differ in `rank` alone."""
    cache, limits = session_shape(
        model,
        shards,
        max_seq_len=options.max_seq_len,
        n_sequences=options.n_sequences,
        n_parallel=options.n_parallel,
        wire=options.wire,
        cache_type=options.cache_type,
        timeout_s=options.timeout_s,
        most_threads=most_threads,
    )
    return SessionPlan(
        session=session,
        rank=0,
        addresses=crew.addresses,
        model=model,
        shards=shards,
        cache=cache,
        limits=limits,
        peer_timeout_s=options.peer_timeout_s,
    )


def _load(
    checkpoint: Checkpoint,
    plan: SessionPlan,
    fabric: Fabric,
    memory: RankMemory,
    on_progress: Callable[[int, int], None],
) -> list[int]:
    """Returns the bytes sent to each rank. Raises ModelFileError, too, when a file was changed meanwhile."""
    before = fabric.sent_bytes
    total = sum(plan.model.shard_bytes(spans) for spans in plan.shards.ranks)
    done = 0

    def advance(n_bytes: int) -> None:
        nonlocal done
        done += n_bytes
        on_progress(done, total)

    try:
        send_weights(checkpoint, plan.shards, fabric, memory.weights, plan.limits.timeout_s, advance)
        await_all(fabric, Kind.LOADED, plan.limits.timeout_s)
    except (PeerError, NumericalError):
        checkpoint.check()  # what a changed file looks like from afar
        raise
    checkpoint.check()
    return [after - sent for after, sent in zip(fabric.sent_bytes, before, strict=True)]
