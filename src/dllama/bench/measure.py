"""How fast a model runs, beside what the machine allows."""

from __future__ import annotations

import dataclasses
import mmap
import statistics
import time
from collections.abc import Callable
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from dllama.engine import TokenRun, ragged_batch
from dllama.families import ModelConfig, tensor_specs
from dllama.kernels import Compute
from dllama.node import Cluster

_READ_BYTES = 256 << 20
"""Far larger than any cache that the cores of one home computer share."""

_PEAK_ROUNDS = 1 << 20
"""About 10 ms of nothing but dot products."""

_LIMIT_RUNS = 5
"""Of each limit, before and after each run; the median counts."""

_SMALL_TENSORS = ("embedding", "head")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Load:
    """What to compute: `n_prompt` tokens at once, then `n_gen` tokens for each of `n_sequences` texts that have
    `n_context` positions in the cache; all `n_repeats` times."""

    n_prompt: int
    n_gen: int
    n_sequences: int
    n_context: int
    n_repeats: int


@dataclasses.dataclass(frozen=True)
class Spread:
    """Of several runs."""

    median: float
    min: float
    max: float

    @classmethod
    def of(cls, values: list[float]) -> Spread:
        return cls(statistics.median(values), min(values), max(values))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Speed:
    """Medians. Bytes and operations are those of this node.

    Its limits are what its threads read from memory, and do of the instruction set's dot product. They are measured
    before and after each run, because what others do with this computer changes them by the minute; a fraction is
    that of a run in the limit beside it.
    """

    prefill_tok_per_s: Spread
    decode_tok_per_s: Spread
    weight_bytes_per_token: int
    decode_gb_per_s: float
    read_gb_per_s: float
    decode_fraction_of_read: float
    prefill_gops: float
    peak_gops: float
    prefill_fraction_of_peak: float
    python_overhead_fraction: float


def measure_speed(
    cluster: Cluster,
    compute: Compute,
    load: Load,
    on_progress: Callable[[int, int], None],
) -> Speed:
    """`on_progress(done, total)` counts steps. The first run of each kind warms up and is not counted."""
    bench = _Bench(cluster, compute, load, on_progress)
    limits = _Limits(compute)
    prefills = [_beside(limits.peak_gops, bench.prefill) for _ in range(load.n_repeats + 1)][1:]
    decodes = [_beside(limits.read_gb_per_s, bench.decode) for _ in range(load.n_repeats + 1)][1:]
    gop = 2e-9 * load.n_prompt * _layer_weights(cluster.config) / cluster.n_nodes
    gb = 1e-9 * load.n_gen * cluster.weight_bytes
    n_tokens = load.n_gen * load.n_sequences
    return Speed(
        prefill_tok_per_s=Spread.of([load.n_prompt / seconds for seconds, _ in prefills]),
        decode_tok_per_s=Spread.of([n_tokens / one.seconds for one, _ in decodes]),
        weight_bytes_per_token=cluster.weight_bytes,
        decode_gb_per_s=statistics.median(gb / one.seconds for one, _ in decodes),
        read_gb_per_s=statistics.median(limit for _, limit in decodes),
        decode_fraction_of_read=statistics.median(gb / one.seconds / limit for one, limit in decodes),
        prefill_gops=statistics.median(gop / seconds for seconds, _ in prefills),
        peak_gops=statistics.median(limit for _, limit in prefills),
        prefill_fraction_of_peak=statistics.median(gop / seconds / limit for seconds, limit in prefills),
        python_overhead_fraction=statistics.median(one.overhead for one, _ in decodes),
    )


_Measured = TypeVar("_Measured")


def _beside(limit: Callable[[], float], run: Callable[[], _Measured]) -> tuple[_Measured, float]:
    """What a run measured, and the limit of that time."""
    before = [limit() for _ in range(_LIMIT_RUNS)]
    measured = run()
    return measured, statistics.median(before + [limit() for _ in range(_LIMIT_RUNS)])


class _Limits:
    def __init__(self, compute: Compute) -> None:
        self._compute = compute
        self._memory = _filled_memory(_READ_BYTES)

    def read_gb_per_s(self) -> float:
        return 1e-9 * _READ_BYTES / _seconds(lambda: self._compute.read_memory(self._memory))

    def peak_gops(self) -> float:
        start = time.perf_counter()
        n_operations = self._compute.dot_peak(_PEAK_ROUNDS)
        return 1e-9 * n_operations / (time.perf_counter() - start)


@dataclasses.dataclass(frozen=True)
class _Decode:
    seconds: float
    overhead: float  # the part of it neither in native code nor waiting for other nodes


class _Bench:
    """Each text has pages of its own, as many as the cache holds for each."""

    def __init__(
        self, cluster: Cluster, compute: Compute, load: Load, on_progress: Callable[[int, int], None]
    ) -> None:
        self._cluster, self._compute, self._load = cluster, compute, load
        self._random = np.random.default_rng(0)
        self._on_progress = on_progress
        self._n_done = 0
        self._has_context = False

    def prefill(self) -> float:
        """Seconds for a prompt on its own, with the logits of its last token."""
        seconds = _seconds(lambda: self._fill(0, self._load.n_prompt))
        self._tick()
        return seconds

    def decode(self) -> _Decode:
        """n_gen steps of all texts together, after which they are as long as before."""
        texts = range(self._load.n_sequences)
        if not self._has_context:
            for text in texts:
                self._fill(text, self._load.n_context)
            self._has_context = True
        waited_s, native_s = 0.0, self._compute.native_s
        start = time.perf_counter()
        for place, token_id in enumerate(self._tokens(self._load.n_gen), start=self._load.n_context):
            runs = [TokenRun([token_id], place, self._pages(text), 1) for text in texts]
            self._cluster.step(ragged_batch(runs))
            waited_s += self._cluster.last_step.sync_s
        seconds = time.perf_counter() - start
        native_s = self._compute.native_s - native_s
        self._tick()
        return _Decode(seconds, 1 - (native_s + waited_s) / seconds)

    def _fill(self, text: int, n_tokens: int) -> None:
        """The first `n_tokens` of a text, in as many steps as the buffers need."""
        token_ids, size = self._tokens(n_tokens), self._cluster.max_rows
        for first in range(0, n_tokens, size):
            part = token_ids[first : first + size]
            is_last = first + size >= n_tokens
            self._cluster.step(ragged_batch([TokenRun(part, first, self._pages(text), int(is_last))]))

    def _pages(self, text: int) -> range:
        n = self._cluster.cache.n_pages // self._load.n_sequences
        return range(text * n, (text + 1) * n)

    def _tokens(self, n: int) -> list[int]:
        ids: list[int] = self._random.integers(0, self._cluster.config.vocab_size, n).tolist()
        return ids

    def _tick(self) -> None:
        self._n_done += 1
        self._on_progress(self._n_done, 2 * (self._load.n_repeats + 1))


def _filled_memory(n_bytes: int) -> NDArray[np.uint8]:
    """Memory like that of the weights: of huge pages where the system has them."""
    memory = mmap.mmap(-1, n_bytes)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        memory.madvise(mmap.MADV_HUGEPAGE)
    array = np.frombuffer(memory, np.uint8)
    array[:] = 1
    return array


def _layer_weights(config: ModelConfig) -> int:
    """Weights that every token of a prompt is multiplied with: all matrices but the head."""
    return sum(
        spec.n_elements
        for spec in tensor_specs(config)
        if spec.name not in _SMALL_TENSORS and spec.n_rows > 1
    )


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
