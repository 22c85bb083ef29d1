"""How a session's partial sums are added up: all ranks measure their exchanges, the root decides."""

from __future__ import annotations

import dataclasses

from dllama.errors import PeerProtocolError
from dllama.fabric import Fabric, measure_exchange, receive_frame, send_frame
from dllama.model import Algorithm, ReducePlan, plan_reduce
from dllama.node.greeting import raise_refusal
from dllama.node.messages import MAX_CONTROL_BYTES, Kind, ReduceChoice


def choose_reduce(
    fabric: Fabric, algorithm: Algorithm, timeout_s: float, large_bytes: int | None = None
) -> ReducePlan:
    """The root's side; `algorithm` is what the person who started it wants, `large_bytes` as in plan_reduce. Raises
    PeerError."""
    if fabric.n_ranks == 1:
        return ReducePlan()
    plan = plan_reduce(fabric.n_ranks, measure_exchange(fabric, timeout_s), algorithm, large_bytes)
    choice = ReduceChoice(**dataclasses.asdict(plan))
    send_frame(fabric, range(1, fabric.n_ranks), Kind.REDUCE, choice.encode(), timeout_s=timeout_s)
    return plan


def learn_reduce(fabric: Fabric, timeout_s: float) -> ReducePlan:
    """A worker's side. Raises PeerError."""
    measure_exchange(fabric, timeout_s)
    kind, payload = receive_frame(fabric, 0, MAX_CONTROL_BYTES, timeout_s)
    if kind != Kind.REDUCE:
        raise_refusal(kind, payload, fabric.peer_name(0))
    choice = ReduceChoice.decode(payload, fabric.peer_name(0))
    if min(choice.scatter_bytes or 0, choice.overlap_bytes or 0) < 0:
        raise PeerProtocolError(f"{fabric.peer_name(0)} sent a malformed ReduceChoice (negative sizes)")
    return ReducePlan(**vars(choice))
