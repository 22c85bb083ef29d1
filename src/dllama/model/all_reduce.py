"""Two ways to bring all ranks' partial sums together, and which of them a session uses for which size.

Direct: every rank sends its part to all others; one network latency, (n - 1) times the bytes of a part. Scattered:
every rank adds up one n-th of all parts (a reduce-scatter) and sends the sum to all others (an all-gather); two
latencies, 2 (n - 1) / n times the bytes. A sum of Q80 parts travels as Q80 again.

A session that may use both rounds the sum to Q80 in both. Then the two give the same bits, and neither the other rows
of a step nor what was measured changes a result.
"""

from __future__ import annotations

import dataclasses
import enum
import itertools
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from dllama.dtypes import BLOCK, ElementType, row_bytes
from dllama.fabric import ExchangeTimes, Fabric, all_gather, all_to_all, exchange_all
from dllama.kernels import Device

Bytes = NDArray[np.uint8]

_OVERLAP_S = 1e-3
"""What an exchange takes at least, beyond its latency, where computing in two halves pays: reading the weights twice
and handing the exchange to another thread cost less than that."""

_LINE_BYTES = 64


class Algorithm(enum.StrEnum):
    AUTO = "auto"
    DIRECT = "direct"
    SCATTERED = "scattered"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReducePlan:
    """How a session's partial sums are added up; the same on every rank. Bytes are those of one rank's part.

    scatter_bytes  parts of so many bytes or more are scattered; None: none
    rounds         the sum is rounded to Q80 also where it does not travel
    overlap_bytes  steps whose parts have so many bytes or more are computed in two halves, so that the sums of one
                   travel while the other is computed; None: none
    """

    scatter_bytes: int | None = None
    rounds: bool = False
    overlap_bytes: int | None = None


def plan_reduce(
    n_ranks: int,
    times: ExchangeTimes,
    algorithm: Algorithm = Algorithm.AUTO,
    large_bytes: int | None = None,
) -> ReducePlan:
    """What is quickest by the measured `times`, or what `algorithm` forces.

    Steps whose parts have `large_bytes` are computed in two halves over any link: either half has rows enough to be
    computed as quickly, and a rank that was held up in one makes the others wait only when they have computed both.
    """
    if n_ranks == 1:
        return ReducePlan()
    # Direct takes latency + bytes * byte_s, scattered 2 (latency + bytes / n * byte_s): never less for two ranks.
    saved_s = times.byte_s * (1 - 2 / n_ranks)
    scatter_bytes = int(times.latency_s / saved_s) + 1 if n_ranks > 2 else None
    if algorithm is Algorithm.DIRECT:
        scatter_bytes = None
    elif algorithm is Algorithm.SCATTERED:
        scatter_bytes = 0
    overlap_bytes = int(_OVERLAP_S / times.byte_s)
    if scatter_bytes is not None and scatter_bytes <= overlap_bytes:
        overlap_bytes = max(scatter_bytes, int(_OVERLAP_S / (times.byte_s * 2 / n_ranks)))
    if large_bytes is not None:
        overlap_bytes = min(overlap_bytes, large_bytes)
    return ReducePlan(
        scatter_bytes=scatter_bytes,
        rounds=algorithm is Algorithm.AUTO and n_ranks > 2,
        overlap_bytes=overlap_bytes,
    )


def wire_row_bytes(dim: int, wire: ElementType) -> int:
    """Bytes of one row of partial sums; a last block that is not full travels padded."""
    return row_bytes(wire, -(-dim // BLOCK) * BLOCK if wire.is_blocked else dim)


def buffer_bytes(n_bytes: int, n_ranks: int) -> int:
    """Memory that a reduction of parts of `n_bytes` needs; whole cache lines, so that another may begin after it."""
    pieces = n_ranks * row_bytes(ElementType.Q80, BLOCK)  # the largest piece is up to a block above the mean
    return -(-(n_ranks * n_bytes + pieces) // _LINE_BYTES) * _LINE_BYTES


class Reduction(Protocol):
    """One all-reduce of parts of a given size, ready to be run any number of times.

    own    [bytes] uint8, where the own part has to be; it may be overwritten by `run`
    parts  [P, bytes] uint8, after `run` what is left to be added up to the sum, in this order
    """

    own: Bytes
    parts: Bytes

    def run(self, timeout_s: float) -> None:
        """All ranks call it at the same time. Raises what Fabric.exchange raises."""


class Direct:
    def __init__(self, fabric: Fabric, memory: Bytes, n_bytes: int) -> None:
        self.parts = memory[: fabric.n_ranks * n_bytes].reshape(fabric.n_ranks, n_bytes)
        self.own = self.parts[fabric.rank]
        self._exchange = exchange_all(fabric, self.own, list(self.parts))

    def run(self, timeout_s: float) -> None:
        self._exchange(timeout_s)


class Scattered:
    """Rank r adds up elements, whole blocks, [r * all // n, (r + 1) * all // n) of the parts."""

    def __init__(
        self, device: Device, fabric: Fabric, wire: ElementType, memory: Bytes, n_bytes: int
    ) -> None:
        self._device, self._rank, self._wire = device, fabric.rank, wire
        n_ranks, rank = fabric.n_ranks, fabric.rank
        unit = row_bytes(wire, BLOCK if wire.is_blocked else 1)
        edges = [r * (n_bytes // unit) // n_ranks * unit for r in range(n_ranks + 1)]
        self.own = memory[:n_bytes]
        self.parts = self.own.reshape(1, n_bytes)  # the sum takes the own part's place, piece by piece
        pieces = [self.own[start:stop] for start, stop in itertools.pairwise(edges)]
        self._own_piece = pieces[rank]
        n_piece = len(self._own_piece)
        self._pieces = memory[n_bytes : n_bytes + n_ranks * n_piece].reshape(n_ranks, n_piece)
        self._scatter = all_to_all(fabric, pieces, list(self._pieces))
        self._gather = all_gather(fabric, self.own, [len(piece) for piece in pieces])

    def run(self, timeout_s: float) -> None:
        self._pieces[self._rank] = self._own_piece
        self._scatter(timeout_s)
        self._add_pieces()
        self._gather(timeout_s)

    def _add_pieces(self) -> None:
        if self._wire is ElementType.Q80:
            self._device.sum_q80(self._own_piece, self._pieces)
            return
        total, pieces = self._own_piece.view(np.float32), self._pieces.view(np.float32)
        total[:] = pieces[0]
        for piece in pieces[1:]:
            total += piece
