"""Spans for each rank, for any number of nodes and any weights (docs/architecture.md, "Spans")."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from dllama.errors import UsageError

_FINEST_UNITS = 8
"""Units that every rank should have to share finely, where a unit may be smaller than _COARSE."""

_COARSE = 32


@dataclasses.dataclass(frozen=True)
class Span:
    """The half-open range [start, stop)."""

    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start


RankSpans: TypeAlias = Mapping[str, Span]
"""What one rank owns of each axis, by the axis's name."""


@dataclasses.dataclass(frozen=True)
class Axis:
    """Something that is divided among ranks: query heads, FFN columns, vocabulary rows. `name` says how many of what.

    `unit` of the `n` stay together. Where they are `fine`, single rows or columns, larger units are taken as long as
    every rank gets enough of them: their edges then fall together with those of tiles and cache lines.
    """

    name: str
    n: int
    unit: int = 1
    fine: bool = False


@dataclasses.dataclass(frozen=True)
class ShardPlan:
    """The spans of all ranks, in rank order; each axis is covered once."""

    ranks: tuple[RankSpans, ...]

    @property
    def n_ranks(self) -> int:
        return len(self.ranks)

    def to_json(self) -> list[dict[str, list[int]]]:
        return [{name: [span.start, span.stop] for name, span in spans.items()} for spans in self.ranks]

    @classmethod
    def from_json(cls, values: list[dict[str, Any]]) -> ShardPlan:
        """The inverse of to_json. Raises KeyError, TypeError or ValueError on anything else."""
        return cls(
            tuple(
                {name: Span(_index(start), _index(stop)) for name, (start, stop) in spans.items()}
                for spans in values
            )
        )


def plan_spans(axes: Sequence[Axis], shares: Sequence[float]) -> ShardPlan:
    """Spans in proportion to `shares` (root first; only their ratios matter).

    Every rank gets at least one unit of each axis. Raises UsageError when there are more ranks than units, or
    when a share is not a positive number.
    """
    if not shares or any(not math.isfinite(share) or share <= 0 for share in shares):
        raise UsageError(
            f"shares are positive numbers, one for each node, not {_spaced(shares)}", settings=("shares",)
        )
    limit = largest_node_count(axes)
    if len(shares) > limit:
        what = ", ".join(axis.name if axis.unit == 1 else f"{axis.name} by {axis.unit}" for axis in axes)
        raise UsageError(
            f"{len(shares)} nodes cannot share this model ({what}): it can be split over 1 to {limit} nodes"
        )
    split = {axis.name: _split(axis.n, _unit(axis, len(shares)), shares) for axis in axes}
    return ShardPlan(
        tuple({name: spans[rank] for name, spans in split.items()} for rank in range(len(shares)))
    )


def largest_node_count(axes: Sequence[Axis]) -> int:
    """The most nodes that a model with these axes can be split over: one unit of each for every node."""
    return min(axis.n // axis.unit for axis in axes)


def _unit(axis: Axis, n_ranks: int) -> int:
    """For fine axes the largest power of two up to 32 that divides them and leaves every rank 8 units."""
    if not axis.fine or axis.unit > 1:
        return axis.unit
    unit = _COARSE
    while unit > 1 and (axis.n % unit or axis.n // unit < _FINEST_UNITS * n_ranks):
        unit //= 2
    return unit


def _split(total: int, unit: int, shares: Sequence[float]) -> list[Span]:
    """`total` cut at multiples of `unit`, by largest remainder, at least one unit each."""
    n_units = total // unit
    exact = [share / math.fsum(shares) * n_units for share in shares]
    counts = [max(1, math.floor(value)) for value in exact]
    while sum(counts) > n_units:  # the minimum of one took too much
        # from who is furthest above its share
        above = max((r for r, count in enumerate(counts) if count > 1), key=lambda r: counts[r] - exact[r])
        counts[above] -= 1
    while sum(counts) < n_units:
        below = max(range(len(counts)), key=lambda r: exact[r] - counts[r])
        counts[below] += 1
    spans, start = [], 0
    for count in counts:
        spans.append(Span(start * unit, (start + count) * unit))
        start += count
    return spans


def _index(value: Any) -> int:
    if type(value) is not int:
        raise TypeError(f"{value!r} is no place in a model")
    return value


def _spaced(values: Sequence[float]) -> str:
    return " ".join(f"{value:g}" for value in values) or "nothing"
