"""What root and workers say to each other (docs/protocol.md). Every message is a frame with one of these kinds."""

from __future__ import annotations

import dataclasses
import enum
import itertools
import json
from collections.abc import Callable
from typing import Any, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from dllama.dtypes import ElementType
from dllama.errors import PeerProtocolError
from dllama.families import ModelConfig
from dllama.model import CacheShape, StepBatch, StepLimits
from dllama.node.soundness import check_session, check_types
from dllama.sharding import ShardPlan

T = TypeVar("T")

MAX_CONTROL_BYTES = 1 << 20
"""Limit of every message but STEP."""


class Kind(enum.IntEnum):
    HELLO = 1  # whoever connects, first: Hello
    WELCOME = 2  # the worker's answer: Welcome
    BUSY = 3  # the worker's answer while it serves another root: Refusal
    REFUSED = 4  # the worker's answer when it cannot: Refusal
    PLAN = 5  # root to worker: SessionPlan
    READY = 6  # worker to root: connected to all others, memory allocated
    LOADED = 7  # worker to root: all shards are in place
    FAILED = 8  # worker to root, in place of READY or LOADED: Refusal
    STEP = 9  # root to worker: one forward pass; the answer is the worker's logits, bare
    STATUS = 10  # root to worker, answered by the same kind: NodeStatus
    END = 11  # root to worker: the session is over


class Role(enum.StrEnum):
    ROOT = "root"
    WORKER = "worker"


class _Json:
    """A frozen dataclass of JSON values that travels as UTF-8 JSON; unknown or missing keys are refused."""

    def encode(self) -> bytes:
        return json.dumps(dataclasses.asdict(self)).encode()  # type: ignore[call-overload]

    @classmethod
    def decode(cls, payload: bytes, sender: str) -> Self:
        """Raises PeerProtocolError naming the sender."""
        return _parse(cls.__name__, sender, lambda: check_types(cls(**_json_object(payload))))


@dataclasses.dataclass(frozen=True)
class Hello(_Json):
    """`session` names what a worker wants to join; a root makes it up. `rank` is the sender's."""

    role: str  # one of Role
    session: str
    rank: int


@dataclasses.dataclass(frozen=True)
class Welcome(_Json):
    """`machine` is the same for all nodes of one computer, whose memory they share."""

    machine: str
    available_bytes: int
    n_threads: int
    isa: str
    kv_on_disk: bool


@dataclasses.dataclass(frozen=True)
class Refusal(_Json):
    reason: str


@dataclasses.dataclass(frozen=True)
class NodeStatus(_Json):
    """What `--report` says about a node."""

    weight_bytes: int
    kv_bytes: int
    peak_rss_bytes: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class SessionPlan:
    """All that a worker has to know. `addresses` [n_ranks]: "host:port" as the root reaches it, "" for the root."""

    session: str
    rank: int
    addresses: tuple[str, ...]
    config: ModelConfig
    shards: ShardPlan
    cache: CacheShape
    limits: StepLimits

    def encode(self) -> bytes:
        values = {
            "session": self.session,
            "rank": self.rank,
            "addresses": self.addresses,
            "config": self.config.to_json(),
            "shards": self.shards.to_json(),
            "cache": vars(self.cache) | {"dtype": self.cache.dtype.label},
            "limits": vars(self.limits) | {"wire": self.limits.wire.label},
        }
        return json.dumps(values).encode()

    @classmethod
    def decode(cls, payload: bytes, sender: str) -> SessionPlan:
        """Raises PeerProtocolError naming the sender."""

        def parse() -> SessionPlan:
            values = _json_object(payload)
            cache, limits = values["cache"], values["limits"]
            plan = cls(
                session=values["session"],
                rank=values["rank"],
                addresses=tuple(values["addresses"]),
                config=ModelConfig.from_json(values["config"]),
                shards=ShardPlan.from_json(values["shards"]),
                cache=CacheShape(**cache | {"dtype": ElementType.from_label(cache["dtype"])}),
                limits=StepLimits(**limits | {"wire": ElementType.from_label(limits["wire"])}),
            )
            check_types(plan)
            check_session(plan.rank, plan.addresses, plan.config, plan.shards, plan.cache, plan.limits)
            return plan

        return _parse("SessionPlan", sender, parse)


_STEP_HEADER = np.dtype("<i4")
_N_STEP_COUNTS = 5


def encode_step(batch: StepBatch, inputs: NDArray[np.float32]) -> list[NDArray[Any]]:
    """A STEP's payload as buffers that follow each other.

    Five int32: T, S, pages of each sequence, N, D; then sequence lengths [S], first positions [S], page_table,
    logit_rows (int32), inputs [T, D] float32. Token ids stay with the root.
    """
    first_rows = np.flatnonzero(np.diff(batch.sequence, prepend=-1))
    lengths = np.diff(first_rows, append=batch.n_rows)
    n_sequences, n_pages = batch.page_table.shape
    counts = [batch.n_rows, n_sequences, n_pages, len(batch.logit_rows), inputs.shape[1]]
    head = np.concatenate(
        [counts, lengths, batch.positions[first_rows], batch.page_table.reshape(-1), batch.logit_rows]
    )
    return [head.astype(_STEP_HEADER), inputs]


def decode_step(
    payload: bytes, dim: int, limits: StepLimits, cache: CacheShape, sender: str
) -> tuple[StepBatch, NDArray[np.float32]]:
    """The inverse of encode_step (token ids are zeros). Raises PeerProtocolError on anything impossible."""

    def parse() -> tuple[StepBatch, NDArray[np.float32]]:
        n_rows, n_sequences, n_pages, n_logits, n_columns = _step_counts(payload, limits, cache)
        ends = np.cumsum([_N_STEP_COUNTS, n_sequences, n_sequences, n_sequences * n_pages, n_logits])
        _require(n_columns == dim and len(payload) == 4 * (int(ends[-1]) + n_rows * dim), "size")
        ints = np.frombuffer(payload, _STEP_HEADER, int(ends[-1]))
        lengths, starts, table, logit_rows = (ints[a:b] for a, b in itertools.pairwise(ends))
        _require(lengths.min() > 0 and lengths.sum(dtype=np.int64) == n_rows, "sequence lengths")
        n_positions = min(limits.max_positions, n_pages * cache.page_size)
        _require(starts.min() >= 0 and (starts.astype(np.int64) + lengths).max() <= n_positions, "positions")
        _require(_within(table, cache.n_pages), "page numbers")
        _require(_within(logit_rows, n_rows), "logit rows")
        first_rows = np.cumsum(lengths) - lengths
        batch = StepBatch(
            token_ids=np.zeros(n_rows, np.int32),
            positions=(np.arange(n_rows) + np.repeat(starts - first_rows, lengths)).astype(np.int32),
            sequence=np.repeat(np.arange(n_sequences, dtype=np.int32), lengths),
            page_table=table.reshape(n_sequences, n_pages),
            logit_rows=logit_rows,
        )
        inputs = np.frombuffer(payload, np.dtype("<f4"), offset=4 * int(ends[-1])).reshape(n_rows, dim)
        return batch, inputs

    return _parse("step", sender, parse)


def max_step_bytes(config: ModelConfig, limits: StepLimits, cache: CacheShape) -> int:
    """The largest STEP that a session may need: every row a sequence of its own with all pages."""
    ints = _N_STEP_COUNTS + limits.max_rows * (3 + cache.n_pages)
    return 4 * (ints + limits.max_rows * config.dim)


def _step_counts(payload: bytes, limits: StepLimits, cache: CacheShape) -> list[int]:
    """T, S, pages of each sequence, N, D. Raises ValueError for what the buffers are not made for."""
    counts = [int(count) for count in np.frombuffer(payload, _STEP_HEADER, _N_STEP_COUNTS)]
    n_rows, n_sequences, n_pages, n_logits, _ = counts
    _require(0 < n_rows <= limits.max_rows, "number of rows")
    _require(0 < n_sequences <= n_rows, "number of sequences")
    _require(0 < n_pages <= cache.n_pages, "number of pages")
    _require(0 <= n_logits <= min(n_rows, limits.max_logit_rows), "number of logits")
    return counts


def _require(holds: bool | np.bool_, what: str) -> None:
    if not holds:
        raise ValueError(f"impossible {what}")


def _within(values: NDArray[np.int32], limit: int) -> bool:
    return not len(values) or (int(values.min()) >= 0 and int(values.max()) < limit)


def _json_object(payload: bytes) -> dict[str, Any]:
    values = json.loads(payload)
    if not isinstance(values, dict):
        raise TypeError("not an object")
    return values


def _parse(what: str, sender: str, parse: Callable[[], T]) -> T:
    try:
        return parse()
    except (ValueError, TypeError, KeyError, OverflowError, AttributeError, RecursionError) as error:
        raise PeerProtocolError(
            f"{sender} sent a malformed {what} ({error}); are both of the same dllama version?"
        ) from error
