"""How fast a model runs, beside what the machine allows."""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable, Iterable
from typing import TypeVar

import numpy as np

from dllama.bench.limits import Limits
from dllama.dtypes import ElementType, row_bytes
from dllama.engine import TokenChunk, ragged_batch
from dllama.kernels import Compute
from dllama.model import ModelSpec, cached_widths
from dllama.node import Cluster

_LIMIT_RUNS = 5
"""How often each limit is measured before and after each run; the median counts."""

_MEMORY_PAGE = 4096


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
    """The median, least and most of several runs."""

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
    prefill_attention_fraction: float
    decode_attention_fraction: float
    cache_bytes_per_token: int
    context_times_reading: float | None
    """What the context adds to a decode step, beside reading its keys and values once; None without a context."""
    prefill_sent_bytes_per_tok: float
    prefill_recv_bytes_per_tok: float
    prefill_sync_ms_per_tok: float
    decode_sent_bytes_per_tok: float
    decode_recv_bytes_per_tok: float
    decode_sync_ms_per_tok: float


def measure_speed(
    cluster: Cluster,
    compute: Compute,
    load: Load,
    on_progress: Callable[[int, int], None],
) -> Speed:
    """`on_progress(done, total)` counts steps. The first run of each kind warms up and is not counted."""
    bench = _Bench(cluster, compute, load, on_progress)
    limits = Limits(compute)
    prefills = [_beside(limits.peak_gops, bench.prefill) for _ in range(load.n_repeats + 1)][1:]
    both = [_beside(limits.read_gb_per_s, bench.decode) for _ in range(load.n_repeats + 1)][1:]
    decodes = [(one, limit) for (one, _), limit in both]
    gop = 2e-9 * load.n_prompt * _layer_weights(cluster.model) / cluster.n_nodes
    step_bytes = cluster.read_bytes(load.n_sequences)
    gb = 1e-9 * load.n_gen * step_bytes
    cache_gb = 1e-9 * load.n_gen * bench.context_bytes
    n_tokens = load.n_gen * load.n_sequences
    return Speed(
        prefill_tok_per_s=Spread.of([load.n_prompt / one.seconds for one, _ in prefills]),
        decode_tok_per_s=Spread.of([n_tokens / one.seconds for one, _ in decodes]),
        weight_bytes_per_token=step_bytes,
        decode_gb_per_s=statistics.median(gb / one.seconds for one, _ in decodes),
        read_gb_per_s=statistics.median(limit for _, limit in decodes),
        decode_fraction_of_read=statistics.median(gb / one.seconds / limit for one, limit in decodes),
        prefill_gops=statistics.median(gop / one.seconds for one, _ in prefills),
        peak_gops=statistics.median(limit for _, limit in prefills),
        prefill_fraction_of_peak=statistics.median(gop / one.seconds / limit for one, limit in prefills),
        python_overhead_fraction=statistics.median(one.overhead for one, _ in decodes),
        prefill_attention_fraction=statistics.median(one.attention_s / one.seconds for one, _ in prefills),
        decode_attention_fraction=statistics.median(one.attention_s / one.seconds for one, _ in decodes),
        cache_bytes_per_token=bench.context_bytes // load.n_sequences,
        context_times_reading=statistics.median(
            (one.seconds - bare.seconds) * limit / cache_gb for (one, bare), limit in both
        )
        if cache_gb
        else None,
        **_wire("prefill", [one for one, _ in prefills], load.n_prompt),
        **_wire("decode", [one for one, _ in decodes], n_tokens),
    )


def _wire(name: str, runs: list[_Run], n_tokens: int) -> dict[str, float]:
    """What a token costs on the wire of this node: medians."""
    return {
        f"{name}_sent_bytes_per_tok": statistics.median(run.sent_bytes for run in runs) / n_tokens,
        f"{name}_recv_bytes_per_tok": statistics.median(run.received_bytes for run in runs) / n_tokens,
        f"{name}_sync_ms_per_tok": 1e3 * statistics.median(run.sync_s for run in runs) / n_tokens,
    }


_Measured = TypeVar("_Measured")


def _beside(limit: Callable[[], float], run: Callable[[], _Measured]) -> tuple[_Measured, float]:
    """What a run measured, and the limit of that time."""
    before = [limit() for _ in range(_LIMIT_RUNS)]
    measured = run()
    return measured, statistics.median(before + [limit() for _ in range(_LIMIT_RUNS)])


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Run:
    """Several steps on this node."""

    seconds: float
    native_s: float
    attention_s: float
    sync_s: float  # waiting for other nodes
    sent_bytes: int
    received_bytes: int

    @property
    def overhead(self) -> float:
        """The part of the time neither in native code nor waiting for other nodes."""
        return 1 - (self.native_s + self.sync_s) / self.seconds


class _Bench:
    """Each text has pages of its own, as many as the cache holds for each; a prompt by itself has all."""

    def __init__(
        self, cluster: Cluster, compute: Compute, load: Load, on_progress: Callable[[int, int], None]
    ) -> None:
        self._cluster, self._compute, self._load = cluster, compute, load
        self._random = np.random.default_rng(0)
        self._on_progress = on_progress
        self._n_done = 0
        self._has_context = False

    @property
    def context_bytes(self) -> int:
        """Keys and values on this node that a step of all texts attends to, of their contexts."""
        return self._load.n_sequences * self._cluster.context_bytes(self._load.n_context)

    def prefill(self) -> _Run:
        """A prompt on its own, with the logits of its last token."""
        token_ids, size = self._tokens(self._load.n_prompt), self._cluster.max_rows
        steps = []
        for first in range(0, len(token_ids), size):
            part, is_last = token_ids[first : first + size], first + size >= len(token_ids)
            pages = self._cluster.cache.lone_pages(first, len(part))
            steps.append([TokenChunk(part, first, pages, int(is_last))])
        run = self._run(steps)
        self._tick()
        return run

    def decode(self) -> tuple[_Run, _Run]:
        """n_gen steps of all texts together from their contexts on, and, where they have one, as many from the
        beginning."""
        if not self._has_context:
            for text in range(self._load.n_sequences):
                self._touch_context(text)
            self._has_context = True
        run = self._decode(self._load.n_context)
        bare = self._decode(0) if self._load.n_context else run
        self._tick()
        return run, bare

    def _decode(self, n_context: int) -> _Run:
        """Texts have tokens of their own: those of mixtures go to other experts."""
        texts = [self._tokens(self._load.n_gen) for _ in range(self._load.n_sequences)]
        return self._run(
            [self._one_row(text, token_id, n_context + step, 1) for text, token_id in enumerate(token_ids)]
            for step, token_ids in enumerate(zip(*texts, strict=True))
        )

    def _touch_context(self, text: int) -> None:
        """Puts a token at so many positions of the context that every page of memory under the cache is in use: all
        that the time of a later step depends on. Between them keys and values stay zeros."""
        dtype = self._cluster.cache.dtype
        apart = max(1, _MEMORY_PAGE // self._narrowest_row(dtype))
        places = range(0, self._load.n_context, apart)
        for first in range(0, len(places), self._cluster.max_rows):
            part = places[first : first + self._cluster.max_rows]
            runs = [
                self._one_row(text, token_id, place, 0)
                for place, token_id in zip(part, self._tokens(len(part)), strict=True)
            ]
            self._cluster.step(ragged_batch(runs))

    def _run(self, steps: Iterable[list[TokenChunk]]) -> _Run:
        sync_s, sent, received = 0.0, 0, 0
        native_s, attention_s = self._compute.native_s, self._compute.attention_s
        start = time.perf_counter()
        for step in steps:
            self._cluster.step(ragged_batch(step))
            last = self._cluster.last_step
            sync_s, sent, received = (
                sync_s + last.sync_s,
                sent + last.sent_bytes,
                received + last.received_bytes,
            )
        return _Run(
            seconds=time.perf_counter() - start,
            native_s=self._compute.native_s - native_s,
            attention_s=self._compute.attention_s - attention_s,
            sync_s=sync_s,
            sent_bytes=sent,
            received_bytes=received,
        )

    def _one_row(self, text: int, token_id: int, position: int, n_wanted: int) -> TokenChunk:
        pages = self._cluster.cache.lone_pages(position, 1, text, self._load.n_sequences)
        return TokenChunk([token_id], position, pages, n_wanted)

    def _tokens(self, n: int) -> list[int]:
        ids: list[int] = self._random.integers(0, self._cluster.config.vocab_size, n).tolist()
        return ids

    def _narrowest_row(self, dtype: ElementType) -> int:
        """Bytes of the keys of one head at one position, where they are fewest."""
        return min(row_bytes(dtype, width) for width in cached_widths(self._cluster.config))

    def _tick(self) -> None:
        self._n_done += 1
        self._on_progress(self._n_done, 2 * (self._load.n_repeats + 1))


def _layer_weights(model: ModelSpec) -> int:
    """Weights that each token of a prompt is multiplied with: all matrices but the head, of experts the chosen ones."""
    of_layers = [(tensors, n) for tensors, n in model.alike if tensors is not model.outer]
    return sum(
        n * tensor.elements_of_row for tensors, n in of_layers for tensor in tensors if not tensor.is_vector
    )
