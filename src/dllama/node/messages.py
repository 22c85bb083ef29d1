"""What root and workers say to each other (docs/protocol.md). Every message is a frame with one of these kinds."""

from __future__ import annotations

import dataclasses
import enum
import json
from collections.abc import Callable
from typing import Any, NoReturn, Self, TypeVar

from dllama.dtypes import ElementType
from dllama.errors import PeerProtocolError
from dllama.fabric import PEER_TIMEOUT_S
from dllama.model import CacheShape, ModelConfig, ModelSpec, PageGroup, StepLimits
from dllama.node.soundness import check_peer_timeout, check_session, check_types
from dllama.plain_text import plain_line
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
    STEP = (
        9  # root to worker: one forward pass (step_message.py); the answer is the worker's candidates, bare
    )
    STATUS = 10  # root to worker, answered by the same kind: PeakMemory
    END = 11  # root to worker: the session is over
    LOGITS = 12  # root to worker: the answer is its part of the last step's logits, bare
    REDUCE = 13  # root to worker, when all have measured their exchanges: ReduceChoice
    CLOCK = 14  # root to worker: trace from now on; the answer, of the same kind, is its clock, a float64
    TRACE = 15  # root to worker; the answer, of the same kind, are its spans (node/tracing.py)
    PROBE = 20  # root to worker, in place of PLAN: ProbeOrders (node/probe.py), answered by READY
    MEASURE = 21  # root to worker: Measure
    MEASURED = 22  # to the root, from the one that holds the clock: Measured
    LINKS = 23  # root to worker, and its answer: faults of its links


class Role(enum.StrEnum):
    ROOT = "root"
    WORKER = "worker"
    HEARTBEAT = (
        "heartbeat"  # of a root or a worker: what follows are beats (fabric/heartbeat.py), without an answer
    )


class Json:
    """A frozen dataclass of JSON values that travels as UTF-8 JSON; unknown or missing keys are refused."""

    def encode(self) -> bytes:
        return json.dumps(dataclasses.asdict(self)).encode()  # type: ignore[call-overload]

    @classmethod
    def decode(cls, payload: bytes | bytearray, sender: str) -> Self:
        """Raises PeerProtocolError naming the sender."""
        return parse_message(cls.__name__, sender, lambda: check_types(cls(**_json_object(payload))))


@dataclasses.dataclass(frozen=True)
class Hello(Json):
    """`session` names what a worker wants to join; a root makes it up. `rank` is the sender's."""

    role: str  # one of Role
    session: str
    rank: int

    def __post_init__(self) -> None:
        Role(self.role)  # ValueError for another one


@dataclasses.dataclass(frozen=True)
class Welcome(Json):
    """`machine` is the same for all nodes of one computer, whose memory they share."""

    machine: str
    available_bytes: int
    n_threads: int
    isa: str
    kv_on_disk: bool

    def __post_init__(self) -> None:
        if not (0 <= self.available_bytes < 1 << 60 and 1 <= self.n_threads < 1 << 16):
            raise ValueError(f"impossible: {self.available_bytes} bytes free, {self.n_threads} threads")


@dataclasses.dataclass(frozen=True)
class Refusal(Json):
    reason: str


@dataclasses.dataclass(frozen=True)
class ReduceChoice(Json):
    """A ReducePlan (model/all_reduce.py)."""

    scatter_bytes: int | None
    rounds: bool
    overlap_bytes: int | None


@dataclasses.dataclass(frozen=True)
class PeakMemory(Json):
    """The most memory of a worker's process that was resident so far."""

    peak_rss_bytes: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class SessionPlan:
    """All that a worker has to know. `addresses` [n_ranks]: "host:port" as the root reaches it, "" for the root. A rank
    that has not been heard of for `peer_timeout_s` is lost."""

    session: str
    rank: int
    addresses: tuple[str, ...]
    model: ModelSpec
    shards: ShardPlan
    cache: CacheShape
    limits: StepLimits
    peer_timeout_s: float = PEER_TIMEOUT_S

    @property
    def config(self) -> ModelConfig:
        return self.model.config

    def encode(self) -> bytes:
        values = {
            "session": self.session,
            "rank": self.rank,
            "addresses": self.addresses,
            "model": self.model.to_json(),
            "shards": self.shards.to_json(),
            "cache": dataclasses.asdict(self.cache) | {"dtype": self.cache.dtype.label},
            "limits": vars(self.limits) | {"wire": self.limits.wire.label},
            "peer_timeout_s": self.peer_timeout_s,
        }
        return json.dumps(values).encode()

    @classmethod
    def decode(cls, payload: bytes | bytearray, sender: str) -> SessionPlan:
        """Raises PeerProtocolError naming the sender."""

        def parse() -> SessionPlan:
            values = _json_object(payload)
            unknown = values.keys() - {field.name for field in dataclasses.fields(cls)}
            if unknown:
                raise ValueError(f"unknown keys {sorted(unknown)}")
            limits = values["limits"]
            plan = cls(
                session=values["session"],
                rank=values["rank"],
                addresses=tuple(values["addresses"]),
                model=ModelSpec.from_json(values["model"]),
                shards=ShardPlan.from_json(values["shards"]),
                cache=_cache_from_json(values["cache"]),
                limits=StepLimits(**limits | {"wire": ElementType.from_label(limits["wire"])}),
                peer_timeout_s=values["peer_timeout_s"],
            )
            check_types(plan)
            check_peer_timeout(plan.peer_timeout_s)
            check_session(
                plan.session,
                plan.rank,
                plan.addresses,
                plan.model,
                plan.shards,
                plan.cache,
                plan.limits,
            )
            return plan

        return parse_message("SessionPlan", sender, parse)


def _cache_from_json(values: dict[str, Any]) -> CacheShape:
    groups = tuple(PageGroup(**group) for group in values["groups"])
    return CacheShape(**values | {"groups": groups, "dtype": ElementType.from_label(values["dtype"])})


def _json_object(payload: bytes | bytearray) -> dict[str, Any]:
    values = json.loads(payload, parse_constant=_refuse_constant)
    if not isinstance(values, dict):
        raise TypeError("not an object")
    return {plain_line(key): _plain(value) for key, value in values.items()}


def _plain(value: Any) -> Any:
    """The value with all of its text as plain lines: whatever a peer says may be shown to people as it is."""
    if isinstance(value, str):
        return plain_line(value)
    if isinstance(value, list):
        return [_plain(each) for each in value]
    if isinstance(value, dict):
        return {plain_line(key): _plain(each) for key, each in value.items()}
    return value


def _refuse_constant(name: str) -> NoReturn:
    """JSON has no NaN and no infinity, Python's reader takes them."""
    raise ValueError(f"{name} is no number")


def parse_message(what: str, sender: str, parse: Callable[[], T]) -> T:
    """What `parse` returns. Raises PeerProtocolError naming the sender where it finds the message unsound."""
    try:
        return parse()
    except (ValueError, TypeError, KeyError, OverflowError, AttributeError, RecursionError) as error:
        raise PeerProtocolError(
            f"{sender} sent a malformed {what} ({plain_line(str(error))}); are both of the same dllama version?"
        ) from error
