"""Measuring what lies between the nodes: all ranks of a session without a model do what the root asks, in turn.

Orders come as Kind.PROBE in place of a plan. Then every Kind.MEASURE goes to all ranks, so that nobody else uses the
links meanwhile, and the rank that holds the clock answers with Kind.MEASURED. Kind.LINKS asks every rank what it knows
of its own network adapters.
"""

from __future__ import annotations

import contextlib
import dataclasses
import enum
import itertools
import math
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from dllama.errors import PeerError, PeerProtocolError
from dllama.fabric import (
    PEER_TIMEOUT_S,
    Fabric,
    all_gather,
    all_to_all,
    broadcast,
    exchange_all,
    gather,
    receive_frame,
    send_frame,
)
from dllama.node.greeting import raise_refusal
from dllama.node.links import link_faults
from dllama.node.messages import MAX_CONTROL_BYTES, Json, Kind
from dllama.node.root_link import RootLink
from dllama.node.soundness import check_company, check_peer_timeout

TIMEOUT_S = 60.0
MOST_BYTES = 64 << 20
"""The largest message of a measurement."""

_MOST_HELD_BYTES = 256 << 20
"""By the messages of one measurement, on one rank."""

_MOST_ROUNDS = 10_000
_MOST_MOVED_BYTES = 1 << 30
"""By all rounds of one measurement, for each rank."""

_MOST_FAULTS = 1000
"""The most lines about one node's links: some for each adapter, and one for each other node."""


class Pattern(enum.StrEnum):
    """What the ranks do in one round, with `n_bytes`."""

    PAIR = "pair"  # rank `first` sends n_bytes to `second`, which answers with answer_bytes
    EXCHANGE_ALL = "exchange all"  # everyone sends n_bytes to everyone
    SCATTERED = "scattered"  # everyone sends everyone its part of n_bytes, then everyone its own part
    BROADCAST = "broadcast"  # the root sends n_bytes to everyone
    GATHER = "gather"  # everyone sends the root n_bytes


@dataclasses.dataclass(frozen=True)
class ProbeOrders(Json):
    """`addresses` [n_ranks] and `peer_timeout_s` as in SessionPlan."""

    session: str
    rank: int
    addresses: Sequence[str]
    peer_timeout_s: float = PEER_TIMEOUT_S


@dataclasses.dataclass(frozen=True)
class Measure(Json):
    """`n_rounds` rounds after one that warms up. Rank `first` holds the clock."""

    pattern: str  # one of Pattern
    n_bytes: int
    n_rounds: int
    first: int = 0
    second: int = 0
    answer_bytes: int = 0


@dataclasses.dataclass(frozen=True)
class LinkFaults(Json):
    """A line for people for each fault of a node's links."""

    faults: list[str]

    def __post_init__(self) -> None:
        if len(self.faults) > _MOST_FAULTS:
            raise ValueError(f"impossible: {len(self.faults)} faults of one node")


@dataclasses.dataclass(frozen=True)
class Measured(Json):
    """Seconds of one round."""

    median_s: float
    least_s: float
    most_s: float

    def __post_init__(self) -> None:
        if not all(0 <= seconds < math.inf for seconds in vars(self).values()):
            raise ValueError(f"impossible times: {self}")


def serve_probe(root: RootLink, payload: bytes | bytearray) -> None:
    """A worker's side, until the root ends it. Raises PeerError."""
    orders = check_orders(ProbeOrders.decode(payload, root.name), root.name)
    try:
        fabric = root.join(orders.session, orders.rank, orders.addresses, orders.peer_timeout_s)
    except PeerError as error:
        root.refuse(str(error))
        raise
    with contextlib.closing(fabric):
        send_frame(fabric, [0], Kind.READY, timeout_s=TIMEOUT_S)
        while True:
            kind, payload = receive_frame(fabric, 0, MAX_CONTROL_BYTES, TIMEOUT_S)
            if kind == Kind.END:
                return
            _answer(fabric, root.name, orders.addresses, kind, payload)


def _answer(
    fabric: Fabric, root: str, addresses: Sequence[str], kind: int, payload: bytes | bytearray
) -> None:
    if kind == Kind.MEASURE:
        measured = run_measure(fabric, check_measure(Measure.decode(payload, root), fabric.n_ranks, root))
        if measured is not None:
            send_frame(fabric, [0], Kind.MEASURED, measured.encode(), timeout_s=TIMEOUT_S)
    elif kind == Kind.LINKS:
        answer = LinkFaults(link_faults(Path("/sys"), Path("/proc"), [*addresses, root]))
        send_frame(fabric, [0], Kind.LINKS, answer.encode(), timeout_s=TIMEOUT_S)
    else:
        raise_refusal(kind, payload, root)


def order_measure(fabric: Fabric, measure: Measure) -> Measured:
    """The root's side: has all ranks do it; returns what the rank with the clock measured. Raises PeerError."""
    send_frame(fabric, range(1, fabric.n_ranks), Kind.MEASURE, measure.encode(), timeout_s=TIMEOUT_S)
    measured = run_measure(fabric, measure)
    if measured is not None:
        return measured
    kind, payload = receive_frame(fabric, measure.first, MAX_CONTROL_BYTES, TIMEOUT_S)
    if kind != Kind.MEASURED:
        raise_refusal(kind, payload, fabric.peer_name(measure.first))
    return Measured.decode(payload, fabric.peer_name(measure.first))


def run_measure(fabric: Fabric, measure: Measure) -> Measured | None:
    """This rank's part in it; what was measured where it holds the clock, else None. Raises PeerError."""
    if measure.pattern == Pattern.PAIR and fabric.rank not in (measure.first, measure.second):
        return None
    do_round = _ROUNDS[Pattern(measure.pattern)](fabric, measure)
    do_round()
    times = np.empty(measure.n_rounds)
    for index in range(measure.n_rounds):
        start = time.perf_counter()
        do_round()
        times[index] = time.perf_counter() - start
    if fabric.rank != measure.first:
        return None
    return Measured(float(np.median(times)), float(times.min()), float(times.max()))


def check_orders(orders: ProbeOrders, sender: str) -> ProbeOrders:
    """Raises PeerProtocolError for what cannot be."""
    try:
        check_peer_timeout(orders.peer_timeout_s)
        check_company(orders.session, orders.rank, orders.addresses)
    except ValueError as error:
        raise PeerProtocolError(f"{sender} sent impossible orders: {error}") from error
    return orders


def check_measure(measure: Measure, n_ranks: int, sender: str) -> Measure:
    """Raises PeerProtocolError for what cannot be done."""
    is_possible = (
        measure.pattern in list(Pattern)
        and 0 <= measure.n_bytes <= MOST_BYTES
        and 0 <= measure.answer_bytes <= MOST_BYTES
        and (measure.n_bytes + measure.answer_bytes) * n_ranks <= _MOST_HELD_BYTES
        and 0 < measure.n_rounds <= _MOST_ROUNDS
        and (measure.n_bytes + measure.answer_bytes) * measure.n_rounds <= _MOST_MOVED_BYTES
        and 0 <= measure.first < n_ranks
        and 0 <= measure.second < n_ranks
        and (measure.pattern == Pattern.PAIR) == (measure.first != measure.second)
    )
    if not is_possible:
        raise PeerProtocolError(f"{sender} asked for an impossible measurement: {measure}")
    return measure


def _pair(fabric: Fabric, measure: Measure) -> Callable[[], None]:
    other = measure.second if fabric.rank == measure.first else measure.first
    asked, answer = _memory(measure.n_bytes), _memory(measure.answer_bytes)

    def ask() -> None:
        fabric.exchange([(other, asked)], [], TIMEOUT_S)
        fabric.exchange([], [(other, answer)], TIMEOUT_S)

    def reply() -> None:
        fabric.exchange([], [(other, asked)], TIMEOUT_S)
        fabric.exchange([(other, answer)], [], TIMEOUT_S)

    return ask if fabric.rank == measure.first else reply


def _exchange_all(fabric: Fabric, measure: Measure) -> Callable[[], None]:
    own, received = _memory(measure.n_bytes), [_memory(measure.n_bytes) for _ in range(fabric.n_ranks)]
    return partial(exchange_all(fabric, own, received), TIMEOUT_S)


def _scattered(fabric: Fabric, measure: Measure) -> Callable[[], None]:
    n_ranks, rank = fabric.n_ranks, fabric.rank
    edges = [measure.n_bytes * index // n_ranks for index in range(n_ranks + 1)]
    whole = _memory(measure.n_bytes)
    parts = [whole[start:stop] for start, stop in itertools.pairwise(edges)]
    scatter = all_to_all(fabric, parts, [_memory(len(parts[rank])) for _ in range(n_ranks)])
    collect = all_gather(fabric, whole, [len(part) for part in parts])

    def do_round() -> None:
        scatter(TIMEOUT_S)
        collect(TIMEOUT_S)

    return do_round


def _broadcast(fabric: Fabric, measure: Measure) -> Callable[[], None]:
    """Answered with a byte by everyone: sending alone takes no time that could be seen."""
    buffer, answers = _memory(measure.n_bytes), [_memory(1) for _ in range(fabric.n_ranks)]

    def do_round() -> None:
        broadcast(fabric, buffer, 0, TIMEOUT_S)
        gather(fabric, answers[0], answers, 0, TIMEOUT_S)

    return do_round


def _gather(fabric: Fabric, measure: Measure) -> Callable[[], None]:
    """Asked for with a byte, so that nobody sends before the clock runs."""
    question, parts = _memory(1), [_memory(measure.n_bytes) for _ in range(fabric.n_ranks)]

    def do_round() -> None:
        broadcast(fabric, question, 0, TIMEOUT_S)
        gather(fabric, parts[fabric.rank], parts, 0, TIMEOUT_S)

    return do_round


def _memory(n_bytes: int) -> Any:
    return np.zeros(n_bytes, np.uint8)


_ROUNDS: dict[Pattern, Callable[[Fabric, Measure], Callable[[], None]]] = {
    Pattern.PAIR: _pair,
    Pattern.EXCHANGE_ALL: _exchange_all,
    Pattern.SCATTERED: _scattered,
    Pattern.BROADCAST: _broadcast,
    Pattern.GATHER: _gather,
}
