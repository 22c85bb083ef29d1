"""How long an exchange of all ranks with all others takes: measured once, when a session's nodes have met."""

from __future__ import annotations

import dataclasses
import statistics
import time

import numpy as np

from dllama.fabric.base import Fabric
from dllama.fabric.collectives import exchange_all

_SMALL_BYTES, _N_SMALL = 64, 15
_LARGE_BYTES, _N_LARGE = 32 * 1024, 5
"""0.1 s in all between 8 nodes at 100 Mbit/s."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExchangeTimes:
    """Every rank sends b bytes to every other one: latency_s + b * byte_s, as one of them saw it.

    All that the ranks share is in it, for they send at the same time: a switch, a computer, its cores.
    """

    latency_s: float
    byte_s: float


def measure_exchange(fabric: Fabric, timeout_s: float) -> ExchangeTimes:
    """Every rank calls it at the same time. Raises what Fabric.exchange raises."""
    _median_s(fabric, _SMALL_BYTES, 1, timeout_s)  # waits for the last one
    latency_s = _median_s(fabric, _SMALL_BYTES, _N_SMALL, timeout_s)
    large_s = _median_s(fabric, _LARGE_BYTES, _N_LARGE, timeout_s)
    byte_s = (large_s - latency_s) / (_LARGE_BYTES - _SMALL_BYTES)
    # No link is faster than memory, whatever a busy computer made of the measurement.
    return ExchangeTimes(latency_s=latency_s, byte_s=max(byte_s, 1e-11))


def _median_s(fabric: Fabric, n_bytes: int, n_rounds: int, timeout_s: float) -> float:
    own = np.zeros(n_bytes, np.uint8)
    received = [np.empty(n_bytes, np.uint8) for _ in range(fabric.n_ranks)]
    exchange = exchange_all(fabric, own, received)
    seconds = []
    for _ in range(n_rounds):
        start = time.perf_counter()
        exchange(timeout_s)
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)
