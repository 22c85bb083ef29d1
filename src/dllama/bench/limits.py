"""What the machine allows, measured with the threads that are to be used."""

from __future__ import annotations

import mmap
import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from dllama.kernels import Compute

_READ_BYTES = 256 << 20
"""Far larger than any cache that the cores of one home computer share."""

_PEAK_ROUNDS = 1 << 20
"""About 10 ms of nothing but dot products."""


class Limits:
    """Reading memory, and the arithmetic of the instruction set on registers alone; each call measures once."""

    def __init__(self, compute: Compute) -> None:
        self._compute = compute
        self._memory = filled_memory(_READ_BYTES)

    def read_gb_per_s(self) -> float:
        return 1e-9 * _READ_BYTES / seconds_of(lambda: self._compute.read_memory(self._memory))

    def peak_gops(self) -> float:
        """8-bit dot products, an operation for each multiplication and addition."""
        return _rate(self._compute.dot_peak)

    def float_gops(self) -> float:
        """float32 multiply-adds, two operations each."""
        return _rate(self._compute.float_peak)


def filled_memory(n_bytes: int) -> NDArray[np.uint8]:
    """Memory like that of the weights: of huge pages where the system has them."""
    # Shared memory, which mmap takes by itself, has huge pages on few systems.
    memory = mmap.mmap(-1, n_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        memory.madvise(mmap.MADV_HUGEPAGE)
    array = np.frombuffer(memory, np.uint8)
    array[:] = 1
    return array


def seconds_of(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _rate(operations: Callable[[int], int]) -> float:
    start = time.perf_counter()
    n_operations = operations(_PEAK_ROUNDS)
    return 1e-9 * n_operations / (time.perf_counter() - start)
