"""How much memory a rank needs, and whether it is there."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from dllama.dtypes import ElementType
from dllama.errors import NotEnoughMemoryError
from dllama.kernels import decodes_weights
from dllama.model import (
    PAGE_SIZE,
    VOCABULARY,
    CacheShape,
    ModelConfig,
    ModelSpec,
    PageGroup,
    StepLimits,
    buffer_row_bytes,
    cache_bytes,
    check_cache_type,
    page_table_bytes,
    page_windows,
    state_bytes,
    table_bytes,
    wire_row_bytes,
)
from dllama.node.messages import SessionPlan, Welcome
from dllama.node.step_message import max_answer_bytes, max_step_bytes
from dllama.sharding import ShardPlan

PROGRAM_BYTES = 90_000_000
"""The interpreter, its libraries and the buffers of sockets and loading."""

_BUFFER_BUDGET_BYTES = 32_000_000
"""For the buffers of all rows of a step on one rank."""

_MIN_ROWS, _MAX_ROWS = 16, 512

_THREAD_ROWS = 128
"""Rows of a step that a thread keeps in its own cache from one operation to the next (native/row_runs.h)."""

_FLOAT_BYTES = 4

_STATE_BUDGET_BYTES = 1_000_000_000
"""For the states of texts at work and of those that ended, on one rank: of Qwen 3.6 35B-A3B a page has 63 MB."""

_LOGIT_BUDGET_BYTES = 16_000_000
"""For the logits, of the whole vocabulary, of all rows of a step that may ask for them."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class MemoryNeed:
    """Bytes that one rank takes."""

    weight_bytes: int
    kv_bytes: int
    kv_on_disk: bool
    other_bytes: int

    @property
    def memory_bytes(self) -> int:
        return self.weight_bytes + self.other_bytes + (0 if self.kv_on_disk else self.kv_bytes)


@dataclasses.dataclass(frozen=True)
class NodeMemory:
    """What one node needs and what its computer has; nodes on one `machine` share it."""

    name: str
    machine: str
    available_bytes: int
    need: MemoryNeed


def memory_need(
    model: ModelSpec,
    plan: ShardPlan,
    rank: int,
    cache: CacheShape,
    limits: StepLimits,
    kv_on_disk: bool,
    decoded: bool = False,
) -> MemoryNeed:
    """`decoded`: the rank's device holds weights, and quantised rows, as float32."""
    config, spans = model.config, plan.ranks[rank]
    vocabulary = spans[VOCABULARY]
    buffers = limits.max_rows * buffer_row_bytes(model, spans, plan.n_ranks, limits.wire)
    buffers *= _FLOAT_BYTES if decoded else 1  # at most: those that are not quantised are as large as ever
    logits = limits.max_logit_rows * 4 * len(vocabulary)
    rope = table_bytes(model, limits.max_positions)
    page_tables = page_table_bytes(cache, limits.max_rows, limits.max_positions)
    messages = max_step_bytes(config, limits, cache, vocabulary) if plan.n_ranks > 1 else 0
    messages += 2 * max_answer_bytes(limits, vocabulary)  # the candidates, and what is sent of them
    states = state_bytes(config, spans, cache)
    masks = limits.max_logit_rows * -(-config.vocab_size // 8)
    return MemoryNeed(
        weight_bytes=_FLOAT_BYTES * model.shard_elements(spans) if decoded else model.shard_bytes(spans),
        kv_bytes=cache_bytes(config, spans, cache),
        kv_on_disk=kv_on_disk,
        other_bytes=PROGRAM_BYTES + buffers + logits + rope + page_tables + messages + masks + states,
    )


def node_memory(name: str, welcome: Welcome, plan: SessionPlan) -> NodeMemory:
    """Of the plan's rank, by what its node says of itself."""
    need = memory_need(
        plan.model,
        plan.shards,
        plan.rank,
        plan.cache,
        plan.limits,
        welcome.kv_on_disk,
        decodes_weights(welcome.isa),
    )
    return NodeMemory(name, welcome.machine, welcome.available_bytes, need)


def session_shape(
    model: ModelSpec,
    plan: ShardPlan,
    *,
    max_seq_len: int,
    n_sequences: int,
    n_parallel: int,
    wire: ElementType,
    cache_type: ElementType,
    timeout_s: float,
    most_threads: int | None = None,
) -> tuple[CacheShape, StepLimits]:
    """Pages for `n_sequences` texts of `max_seq_len` tokens, fewer in layers with a window: what `n_parallel` texts at
    once hold of it, and as much again for what earlier ones left. As many rows in a step as modest buffers hold and the
    threads of a rank (at most `most_threads` on any) have use for.

    Of states what earlier texts left is kept within a budget. Raises UsageError for a cache type that the model's
    heads do not fit.
    """
    config = model.config
    check_cache_type(cache_type, config)
    per_row = max(buffer_row_bytes(model, spans, plan.n_ranks, wire) for spans in plan.ranks)
    wanted = max(kind.feed_forward.wanted_rows for kind in config.kinds)
    max_rows = _most_rows(_BUFFER_BUDGET_BYTES // per_row, most_threads, plan.n_ranks, wanted)
    limits = StepLimits(
        max_rows=max_rows,
        max_logit_rows=max(1, min(max_rows, _LOGIT_BUDGET_BYTES // (4 * config.vocab_size))),
        max_positions=max_seq_len,
        wire=wire,
        timeout_s=timeout_s,
    )
    n_pages = n_sequences * -(-max_seq_len // PAGE_SIZE)
    one_page = CacheShape(
        groups=tuple(PageGroup(window=window, n_pages=1) for window in page_windows(config)),
        page_size=PAGE_SIZE,
        dtype=cache_type,
    )
    largest = max(state_bytes(config, spans, one_page) for spans in plan.ranks)
    n_affordable = _STATE_BUDGET_BYTES // largest if largest else n_pages
    groups = tuple(
        _group(group.window, n_pages, n_parallel, max_rows, n_affordable) for group in one_page.groups
    )
    return dataclasses.replace(one_page, groups=groups), limits


def _group(window: int | None, n_pages: int, n_parallel: int, max_rows: int, n_affordable: int) -> PageGroup:
    """Of `n_pages` at the most, and of `n_affordable` unless texts at work need more. A text holds the pages that its
    window reaches back to and that in which it goes on; the rows of a step begin within a page and may need one more
    than they fill."""
    group = PageGroup(window=window, n_pages=n_pages)
    n_back = group.n_back(PAGE_SIZE)
    if n_back is None:
        return group
    n_held = n_parallel * (n_back + 1)
    n_needed = n_held + 1 + -(-max_rows // PAGE_SIZE)
    return dataclasses.replace(
        group, n_pages=min(n_pages, max(n_needed, min(n_needed + n_held, n_affordable)))
    )


def large_step_bytes(config: ModelConfig, limits: StepLimits) -> int | None:
    """A rank's part of a sum of the largest step, in bytes; None where half of it is less than a thread has use for."""
    is_large = limits.max_rows >= 2 * _THREAD_ROWS
    return limits.max_rows * wire_row_bytes(config.dim, limits.wire) if is_large else None


def _most_rows(n_fitting: int, most_threads: int | None, n_ranks: int, wanted: int) -> int:
    """Whole runs of a thread's rows where one fits; of several ranks, which may compute a step in two halves, two. At
    least as many as layers want, if they fit."""
    useful = _MAX_ROWS if most_threads is None else most_threads * _THREAD_ROWS * min(n_ranks, 2)
    most = min(_MAX_ROWS, max(useful, wanted))
    unit = _THREAD_ROWS if n_fitting >= _THREAD_ROWS else _MIN_ROWS
    return max(_MIN_ROWS, min(most, n_fitting // unit * unit))


def check_memory(nodes: Sequence[NodeMemory]) -> None:
    """Raises NotEnoughMemoryError naming the first computer whose nodes need more than it has."""
    machines: dict[str, list[NodeMemory]] = {}
    for node in nodes:
        machines.setdefault(node.machine, []).append(node)
    for group in machines.values():
        needed = sum(node.need.memory_bytes for node in group)
        available = min(node.available_bytes for node in group)
        if needed > available:
            names = " and ".join(node.name for node in group)
            verb = "needs" if len(group) == 1 else "on one computer need"
            weights = sum(node.need.weight_bytes for node in group)
            caches = sum(node.need.kv_bytes for node in group if not node.need.kv_on_disk)
            raise NotEnoughMemoryError(
                f"not enough memory: {names} {verb} {_gb(needed)} ({_gb(weights)} weights, {_gb(caches)} "
                f"KV cache), {_gb(available)} are free; more or larger nodes, a shorter context, the KV cache "
                f"on disk or other shares would help",
                settings=("max_seq_len", "cache_storage", "shares"),
            )


def _gb(n_bytes: int) -> str:
    return f"{n_bytes / 1e9:.2f} GB"
