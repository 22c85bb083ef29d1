"""Where the time of a step goes on each node."""

from __future__ import annotations

import collections
import dataclasses
import time
from collections.abc import Sequence

from dllama.fabric import Fabric
from dllama.model import Transformer

N_RECENT_STEPS = 64
"""Steps that a mean is taken over: a few seconds of text."""

LITTLE_WAIT = 0.08
"""Part of a step spent waiting that nobody minds."""

WAITS_APART = 0.04
"""Part of a step: waits that differ by less count as equal."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class NodeTimes:
    """One step of one node, or the mean of several; together the step from its message to its answer.

    compute_s  its own work
    wait_s     waiting until something had come from all nodes that owed bytes: for the slowest of them
    wire_s     waiting for the rest of those bytes
    """

    compute_s: float
    wait_s: float
    wire_s: float


class StepTimer:
    """Takes the time of one step after another on this node."""

    def __init__(self, fabric: Fabric, transformer: Transformer) -> None:
        self._fabric = fabric
        self._sums = transformer.sums
        self.start()

    def start(self) -> None:
        self._start = time.perf_counter()
        self._blocked_s = self._sums.wait_s
        self._exchanges_s = _exchange_times(self._fabric)

    def stop(self, also_blocked_s: float = 0.0) -> NodeTimes:
        """The step since `start`, of which computing stood still for the sums and for `also_blocked_s`.

        An exchange that goes on behind computing costs nothing: the time that computing stood still is divided as
        the time of all exchanges is. A fabric that cannot tell waiting from receiving only waits.
        """
        seconds = time.perf_counter() - self._start
        blocked_s = min(seconds, self._sums.wait_s - self._blocked_s + also_blocked_s)
        wait_s, wire_s = (
            now - then for now, then in zip(_exchange_times(self._fabric), self._exchanges_s, strict=True)
        )
        wire_part = wire_s / (wait_s + wire_s) if wire_s > 0 else 0.0
        return NodeTimes(
            compute_s=seconds - blocked_s,
            wait_s=blocked_s * (1 - wire_part),
            wire_s=blocked_s * wire_part,
        )


class Timeline:
    """The times of all nodes, step by step."""

    def __init__(self) -> None:
        self._recent: collections.deque[Sequence[NodeTimes]] = collections.deque(maxlen=N_RECENT_STEPS)

    def add(self, step: Sequence[NodeTimes]) -> None:
        """`step` has one entry for each rank."""
        self._recent.append(step)

    def last(self, rank: int) -> NodeTimes | None:
        return self._recent[-1][rank] if self._recent else None

    def mean(self, rank: int) -> NodeTimes | None:
        times = [step[rank] for step in list(self._recent)]
        return mean_times(times) if times else None


def mean_times(times: Sequence[NodeTimes]) -> NodeTimes:
    """The mean; `times` has at least one element."""
    return NodeTimes(
        **{
            field.name: sum(getattr(one, field.name) for one in times) / len(times)
            for field in dataclasses.fields(NodeTimes)
        }
    )


def waited_for(times: Sequence[NodeTimes]) -> int | None:
    """The rank that the others wait for: the one that waits least itself, by a margin. None if no rank stands out."""
    if len(times) < 2:
        return None
    step_s = max(one.compute_s + one.wait_s + one.wire_s for one in times)
    rank = min(range(len(times)), key=lambda rank: times[rank].wait_s)
    held_s = [one.wait_s - times[rank].wait_s for other, one in enumerate(times) if other != rank]
    is_held = sum(held_s) / len(held_s) >= LITTLE_WAIT * step_s > 0
    return rank if is_held and min(held_s) >= WAITS_APART * step_s else None


def _exchange_times(fabric: Fabric) -> tuple[float, float]:
    return fabric.waited_s, fabric.moved_s
