"""Attention and the paged cache of the reference device."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dllama.dtypes import BLOCK, ElementType, row_bytes
from dllama.kernels import oracle
from dllama.kernels.device import Buffer
from dllama.kernels.host_memory import array_of

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]
Ints = NDArray[np.int32]


@dataclasses.dataclass(frozen=True)
class Places:
    """Where rows stand: see Device. They may change between two runs of a program, so they are checked in each."""

    positions: Ints
    sequence: Ints
    page_table: Ints

    @classmethod
    def of(cls, positions: Buffer, sequence: Buffer, page_table: Buffer, n_rows: int) -> Places:
        arrays = {"positions": positions, "sequence": sequence, "page_table": page_table}
        of_rows, of_sequence, table = (array_of(operand, name) for name, operand in arrays.items())
        if any(array.dtype != np.int32 for array in (of_rows, of_sequence, table)):
            raise TypeError("positions, sequence and page_table must be int32")
        if not 0 <= n_rows <= min(len(of_rows), len(of_sequence)):
            raise ValueError(f"n_rows {n_rows} is more than positions or sequence have")
        return cls(of_rows[:n_rows], of_sequence[:n_rows], table)

    def runs(self) -> Iterator[slice]:
        """Rows that follow each other in one sequence."""
        if not len(self.sequence):
            return
        borders = np.flatnonzero(np.diff(self.sequence)) + 1
        for start, stop in itertools.pairwise([0, *borders.tolist(), len(self.sequence)]):
            yield slice(start, stop)

    def pages(self, sequence: int, positions: NDArray[np.int64], cache: Cache) -> Ints:
        """The page of each of the sequence's `positions`. Raises ValueError for what leads outside table or cache."""
        if not 0 <= sequence < len(self.page_table):
            raise ValueError("sequence has a number outside page_table")
        if (
            not len(positions)
            or positions.min() < 0
            or positions.max() >= self.page_table.shape[1] * cache.page_size
        ):
            raise ValueError("positions has a position outside page_table")
        pages = self.page_table[sequence, positions // cache.page_size]
        if pages.min() < 0 or pages.max() >= len(cache.stored):
            raise ValueError("page_table has a page outside the cache")
        return np.asarray(pages)


@dataclasses.dataclass(frozen=True)
class Cache:
    """Keys or values of one layer, [n_pages, K, page_size, E] as stored."""

    stored: NDArray[Any]

    @classmethod
    def pair(cls, k_cache: Buffer, v_cache: Buffer, n_columns: int, n_heads: int) -> tuple[Cache, Cache]:
        """Both, for rows of `n_columns` with so many query heads."""
        keys, values = cls(array_of(k_cache, "k_cache")), cls(array_of(v_cache, "v_cache"))
        if keys.stored.dtype not in (np.float16, np.float32, np.uint8):
            raise TypeError("k_cache must be float16, float32 or uint8 (q80)")
        if values.stored.dtype != keys.stored.dtype:
            raise TypeError("v_cache must have the element type of k_cache")
        if values.stored.shape != keys.stored.shape or keys.stored.ndim != 4:
            raise ValueError("k_cache and v_cache must have the same 4 dimensions")
        wanted = (n_heads + 2 * keys.n_heads) * keys.head_dim
        if n_columns != wanted:
            raise ValueError(f"qkv.shape[1] must be {wanted}, not {n_columns}")
        return keys, values

    @classmethod
    def latents(cls, cache: Buffer, n_columns: int | None) -> Cache:
        """One of one head, `n_columns` wide."""
        latents = cls(array_of(cache, "cache"))
        if latents.stored.dtype not in (np.float16, np.float32, np.uint8):
            raise TypeError("cache must be float16, float32 or uint8 (q80)")
        if latents.stored.ndim != 4 or latents.n_heads != 1:
            raise ValueError("cache must have 4 dimensions and one head")
        if n_columns is not None and latents.head_dim != n_columns:
            raise ValueError(f"rows.shape[1] must be {latents.head_dim}, not {n_columns}")
        return latents

    @property
    def n_heads(self) -> int:
        return int(self.stored.shape[1])

    @property
    def page_size(self) -> int:
        return int(self.stored.shape[2])

    @property
    def head_dim(self) -> int:
        if self.stored.dtype == np.uint8:
            return int(self.stored.shape[3]) // row_bytes(ElementType.Q80, BLOCK) * BLOCK
        return int(self.stored.shape[3])

    def put(self, page: int, slot: int, heads: Float32) -> None:
        """Stores `heads` [K, E] of one position."""
        is_q80 = self.stored.dtype == np.uint8
        self.stored[page, :, slot] = oracle.encode(ElementType.Q80, heads) if is_q80 else heads

    def get(self, pages: Ints, positions: NDArray[np.int64]) -> Float64:
        """[K, n, E]: the values at `positions` [n], which lie in `pages` [n]."""
        stored = self.stored[pages, :, positions % self.page_size].swapaxes(0, 1)
        if self.stored.dtype == np.uint8:
            rows = stored.reshape(-1, stored.shape[-1])
            values = oracle.decode(ElementType.Q80, rows, self.head_dim)
            return values.reshape(*stored.shape[:2], -1).astype(np.float64)
        return stored.astype(np.float64)


def store(
    qkv: Float32, cos_sin: Float32, places: Places, caches: tuple[Cache, Cache], n_heads: int, n_halves: int
) -> None:
    """See Device.rope_store."""
    n_kv, head_dim, page_size = caches[0].n_heads, caches[0].head_dim, caches[0].page_size
    positions = places.positions.astype(np.int64)
    pages = [
        page
        for run in places.runs()
        for page in places.pages(int(places.sequence[run.start]), positions[run], caches[0])
    ]
    if pages and positions.max() >= len(cos_sin):
        raise ValueError("positions has a position outside cos_sin")
    heads = qkv.reshape(len(qkv), -1, head_dim)
    heads[:, : n_heads + n_kv] = oracle.rope(heads[:, : n_heads + n_kv], cos_sin[positions], n_halves)
    for row, page in enumerate(pages):
        slot = int(positions[row]) % page_size
        caches[0].put(page, slot, heads[row, n_heads : n_heads + n_kv])
        caches[1].put(page, slot, heads[row, n_heads + n_kv :])


def attend(
    out: Float32,
    qkv: Float32,
    places: Places,
    caches: tuple[Cache, Cache],
    kv_heads: NDArray[np.int64],
    window: int,
    sinks: Float32 | None = None,
    soft_cap: float = 0.0,
) -> None:
    """See Device.attention; query head h has the KV head `kv_heads[h]`."""
    head_dim, n_heads = caches[0].head_dim, len(kv_heads)
    queries = qkv[:, : n_heads * head_dim].reshape(len(qkv), n_heads, head_dim).astype(np.float64)
    firsts = np.minimum(places.positions, np.maximum(0, places.positions - window + 1) if window else 0)
    for run in places.runs():
        oldest = int(firsts[run].min())
        seen = np.arange(oldest, max(oldest, int(places.positions[run].max())) + 1)
        pages = places.pages(int(places.sequence[run.start]), seen, caches[0])
        keys, values = (cache.get(pages, seen) for cache in caches)
        for row in range(run.start, run.stop):
            visible = slice(int(firsts[row]) - oldest, int(places.positions[row]) + 1 - oldest)
            for head in np.unique(kv_heads):  # the query heads that share a KV head together
                mine = kv_heads == head
                scores = queries[row, mine] @ keys[head, visible].T
                scores = oracle.soft_cap(scores, head_dim**-0.5, soft_cap)
                mixed = softmax(scores, None if sinks is None else sinks[mine]) @ values[head, visible]
                out[row].reshape(n_heads, head_dim)[mine] = mixed


def softmax(scores: Float64, sinks: Float32 | None = None) -> Float64:
    """Of the last dimension of `scores` [H, n], each row with one logit more, of `sinks` [H], that has no weight."""
    top = scores.max(-1, keepdims=True)
    weights = np.exp(scores - top)
    rest = 0 if sinks is None else np.exp(sinks[:, None] - top)
    return np.asarray(weights / (weights.sum(-1, keepdims=True) + rest))
