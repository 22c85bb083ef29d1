"""Paged attention and rope against the oracle, for every instruction set that this machine has."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from numpy.typing import NDArray

from dllama.dtypes import BLOCK, ElementType, row_bytes
from dllama.kernels import Compute, Q80Rows, oracle, supported_isas

from .checks import EPS, Float32, assert_within


@dataclasses.dataclass
class Step:
    """Rows of several sequences over one paged cache, every position up to a row's own filled."""

    queries: int  # H
    kv_heads: int  # K
    qkv: Float32
    positions: NDArray[np.int32]
    sequence: NDArray[np.int32]
    page_table: NDArray[np.int32]
    k_cache: NDArray[np.floating]
    v_cache: NDArray[np.floating]
    dtype: ElementType  # as which the kernels get the caches; what k_cache and v_cache hold are their exact values

    @property
    def head_dim(self) -> int:
        return self.k_cache.shape[3]

    def stored(self, cache: NDArray[np.floating]) -> NDArray[np.generic]:
        return encode(cache, self.dtype)

    def attend(
        self, compute: Compute, head_offset: int, group: int, window: int, rows: slice, soft_cap: float = 0.0
    ) -> Float32:
        out = np.full((len(self.qkv[rows]), self.queries * self.head_dim), np.nan, np.float32)
        self.attend_to(out, compute, head_offset, group, window, rows, soft_cap)
        return out

    def attend_to(
        self,
        out: Float32 | Q80Rows,
        compute: Compute,
        head_offset: int,
        group: int,
        window: int = 0,
        rows: slice = slice(None),
        soft_cap: float = 0.0,
    ) -> None:
        qkv = np.ascontiguousarray(self.qkv[rows])
        compute.attention(
            out,
            qkv,
            self.positions[rows].copy(),
            self.sequence[rows].copy(),
            self.page_table,
            self.stored(self.k_cache),
            self.stored(self.v_cache),
            self.queries,
            head_offset,
            group,
            window,
            len(qkv),
            soft_cap=soft_cap,
        )


def encode(cache: NDArray[np.floating], dtype: ElementType) -> NDArray[np.generic]:
    """A cache [n_pages, K, P, E] as it lies in memory."""
    if dtype is not ElementType.Q80:
        return cache.astype(np.float16 if dtype is ElementType.F16 else np.float32)
    rows = cache.astype(np.float32).reshape(-1, cache.shape[-1])
    with np.errstate(invalid="ignore"):
        blocks = oracle.encode(dtype, rows)
    return blocks.reshape(*cache.shape[:3], -1)


def decode(cache: NDArray[np.generic], dtype: ElementType, head_dim: int) -> NDArray[np.floating]:
    """The inverse of encode: the values [n_pages, K, P, E] that the bytes stand for."""
    if dtype is not ElementType.Q80:
        return cache  # type: ignore[return-value]
    rows = cache.reshape(-1, row_bytes(dtype, head_dim))
    return oracle.decode(dtype, rows, head_dim).reshape(*cache.shape[:3], head_dim)


def make_step(
    rng: np.random.Generator,
    runs: list[tuple[int, int]],
    queries: int,
    kv_heads: int,
    head_dim: int,
    page_size: int,
    dtype: ElementType,
) -> Step:
    """One sequence for each run (first position, rows); pages are scattered, and what no row sees is NaN."""
    pages_of = [(first + rows + page_size - 1) // page_size for first, rows in runs]
    n_pages = sum(pages_of) + 2
    order = rng.permutation(n_pages).astype(np.int32)
    page_table = np.full((len(runs), max(pages_of) + 1), -1, np.int32)
    shape = (n_pages, kv_heads, page_size, head_dim)
    k_cache, v_cache = np.full(shape, np.nan, np.float32), np.full(shape, np.nan, np.float32)
    taken = 0
    for s, ((first, rows), n) in enumerate(zip(runs, pages_of, strict=True)):
        page_table[s, :n] = order[taken : taken + n]
        taken += n
        position = np.arange(first + rows)
        where = page_table[s, position // page_size], slice(None), position % page_size
        for cache in (k_cache, v_cache):
            cache[where] = rng.standard_normal((len(position), kv_heads, head_dim))
    k_cache, v_cache = (decode(encode(cache, dtype), dtype, head_dim) for cache in (k_cache, v_cache))
    n_rows = sum(rows for _, rows in runs)
    return Step(
        queries,
        kv_heads,
        rng.standard_normal((n_rows, (queries + 2 * kv_heads) * head_dim)).astype(np.float32),
        np.concatenate([np.arange(first, first + rows, dtype=np.int32) for first, rows in runs]),
        np.repeat(np.arange(len(runs), dtype=np.int32), [rows for _, rows in runs]),
        page_table,
        k_cache,
        v_cache,
        dtype,
    )


DTYPES = [ElementType.F16, ElementType.F32, ElementType.Q80]

LAYOUTS = [
    # queries, kv_heads, head_dim, page_size, head_offset, group, window
    (4, 2, 64, 16, 0, 2, 0),
    (3, 3, 32, 7, 0, 1, 0),
    (5, 2, 128, 32, 1, 4, 0),
    (6, 2, 20, 64, 0, 3, 40),
    (2, 1, 8, 1, 3, 8, 0),
    (8, 1, 96, 128, 0, 8, 300),
    (33, 1, 6, 16, 0, 33, 5),
]


def has_such_a_cache(head_dim: int, dtype: ElementType) -> bool:
    """Q80 takes whole blocks only."""
    return dtype is not ElementType.Q80 or head_dim % BLOCK == 0


@pytest.mark.parametrize(
    ("layout", "dtype"),
    [(layout, dtype) for layout in LAYOUTS for dtype in DTYPES if has_such_a_cache(layout[2], dtype)],
)
@pytest.mark.parametrize("runs", [[(0, 1)], [(0, 70), (290, 1), (31, 3)], [(1000, 1)], [(240, 50)]])
@pytest.mark.parametrize("soft_cap", [0.0, 1.5])
def test_attention(
    compute: Compute,
    rng: np.random.Generator,
    runs: list[tuple[int, int]],
    layout: tuple[int, ...],
    dtype: ElementType,
    soft_cap: float,
) -> None:
    if soft_cap and dtype is not ElementType.F16:
        pytest.skip("what a cap does depends on no type")
    queries, kv_heads, head_dim, page_size, head_offset, group, window = layout
    step = make_step(rng, runs, queries, kv_heads, head_dim, page_size, dtype)
    got = step.attend(compute, head_offset, group, window, slice(None), soft_cap)
    heads = step.qkv[:, : queries * head_dim].reshape(-1, queries, head_dim)
    wanted = oracle.attention(
        heads,
        step.positions,
        step.sequence,
        step.page_table,
        step.k_cache,
        step.v_cache,
        head_offset,
        group,
        window,
        cap=soft_cap,
    )
    # A score is off by at most (E + 2) eps |q| |k| / sqrt(E), and by a few roundings of its soft cap, its weight by
    # that as a factor; values add the rounding of a sum over blocks of 32 and their rescaling.
    seen = np.nan_to_num(step.k_cache.astype(np.float64))
    length = np.sqrt((seen**2).sum(-1).max() * (heads.astype(np.float64) ** 2).sum(-1).max())
    score_error = (head_dim + 2) * EPS * length / np.sqrt(head_dim) + 4 * EPS * soft_cap
    n_seen = step.positions.max() + 1
    sums = (min(n_seen, 256) * 2 + n_seen / 256 * 4 + 16) * EPS
    bound = (2 * score_error + sums) * np.abs(np.nan_to_num(step.v_cache.astype(np.float64))).max()
    assert_within(got.reshape(wanted.shape), wanted, bound)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("window", [1, 5, 16, 17, 100, 300])
def test_pages_that_the_window_has_left_are_not_there(
    compute: Compute, rng: np.random.Generator, window: int, dtype: ElementType
) -> None:
    """Their entries may be anything: nothing follows them."""
    step = make_step(rng, [(0, 40), (500, 1), (255, 20), (258, 1)], 6, 3, 64, 16, dtype)
    without = dataclasses.replace(step, page_table=step.page_table.copy())
    for sequence, first in enumerate((0, 500, 255, 258)):
        without.page_table[sequence, : max(0, first - window + 1) // 16] = -1
    for n_threads in (1, 3):
        other = Compute(n_threads, compute.isa)
        whole = step.attend(other, 0, 2, window, slice(None))
        np.testing.assert_array_equal(without.attend(other, 0, 2, window, slice(None)), whole)


@pytest.mark.parametrize("window", [0, 100])
@pytest.mark.parametrize(
    ("head_dim", "dtype"),
    [(width, dtype) for width in (64, 72, 128) for dtype in DTYPES if has_such_a_cache(width, dtype)],
)
def test_row_does_not_depend_on_its_company(
    compute: Compute, rng: np.random.Generator, head_dim: int, dtype: ElementType, window: int
) -> None:
    step = make_step(rng, [(0, 40), (500, 1), (250, 20)], 6, 3, head_dim, 16, dtype)
    together = step.attend(compute, 0, 2, window, slice(None))
    for n_threads in (1, 2, 5):
        other = Compute(n_threads, compute.isa)
        np.testing.assert_array_equal(step.attend(other, 0, 2, window, slice(None)), together)
        for t in (0, 1, 17, 39, 40, 41, 47, 60):
            alone = step.attend(other, 0, 2, window, slice(t, t + 1))
            np.testing.assert_array_equal(alone[0], together[t])


def test_scores_of_any_size(compute: Compute, rng: np.random.Generator) -> None:
    step = make_step(rng, [(0, 50)], 2, 1, 64, 16, ElementType.F32)
    step.qkv *= 1e4
    got = step.attend(compute, 0, 2, 0, slice(None))
    assert np.isfinite(got).all()
    assert np.abs(got).max() <= np.nanmax(np.abs(step.v_cache)) * (1 + 100 * EPS)


def test_not_a_number_shows(compute: Compute, rng: np.random.Generator) -> None:
    step = make_step(rng, [(0, 4), (0, 4)], 2, 1, 64, 16, ElementType.F32)
    step.k_cache[step.page_table[0, 0], 0, 2, 5] = np.nan
    got = step.attend(compute, 0, 2, 0, slice(None))
    assert np.isfinite(got[[0, 1, 4, 5, 6, 7]]).all()
    assert np.isnan(got[2:4]).all()


@pytest.mark.parametrize(
    ("head_dim", "dtype"),
    [(width, dtype) for width in (2, 6, 64, 80, 96) for dtype in DTYPES if has_such_a_cache(width, dtype)],
)
@pytest.mark.parametrize("part", [1.0, 0.5, 0.0])
def test_rope_store(
    compute: Compute, rng: np.random.Generator, head_dim: int, part: float, dtype: ElementType
) -> None:
    n_halves = int(part * head_dim) // 2 * 2
    step = make_step(rng, [(0, 5), (17, 1), (3, 130)], 3, 2, head_dim, 8, dtype)
    before = step.qkv.copy()
    angle = rng.uniform(0, 6, (140, head_dim // 2))
    cos_sin = np.stack([np.cos(angle), np.sin(angle)], axis=-1).astype(np.float32)
    keys, values = (np.zeros_like(step.stored(cache)) for cache in (step.k_cache, step.v_cache))
    compute.rope_store(
        step.qkv,
        cos_sin,
        step.positions,
        step.sequence,
        step.page_table,
        keys,
        values,
        3,
        n_halves,
        len(step.qkv),
    )
    heads = before.reshape(len(before), 7, head_dim)
    wanted = oracle.rope(heads[:, :5], cos_sin[step.positions], n_halves)
    got = step.qkv.reshape(heads.shape)
    assert_within(got[:, :5], wanted, 3 * EPS * np.abs(heads).max() * 2)
    np.testing.assert_array_equal(got[:, 5:], heads[:, 5:])
    page = step.page_table[step.sequence, step.positions // 8]
    slot = step.positions % 8
    np.testing.assert_array_equal(keys[page, :, slot], encode(got[:, None, 3:5], dtype)[:, 0])
    np.testing.assert_array_equal(values[page, :, slot], encode(got[:, None, 5:], dtype)[:, 0])
    assert np.count_nonzero(keys.any(-1)) <= len(before) * 2


@pytest.mark.parametrize("head_dim", [6, 32, 80, 128])
@pytest.mark.parametrize("part", [0, 0.5, 1])
def test_all_instruction_sets_rotate_to_the_same_bits(
    rng: np.random.Generator, head_dim: int, part: float
) -> None:
    """Products and sums are rounded each by itself, so keys of nodes with different CPUs are the same."""
    step = make_step(rng, [(0, 5), (17, 1)], 3, 2, head_dim, 8, ElementType.F32)
    angle = rng.uniform(0, 6, (140, head_dim // 2))
    cos_sin = np.stack([np.cos(angle), np.sin(angle)], axis=-1).astype(np.float32)
    turned = []
    for isa in supported_isas():
        qkv = step.qkv.copy()
        keys, values = (np.zeros_like(step.stored(cache)) for cache in (step.k_cache, step.v_cache))
        where = step.positions, step.sequence, step.page_table
        n_halves = int(part * head_dim) // 2 * 2
        Compute(1, isa).rope_store(qkv, cos_sin, *where, keys, values, 3, n_halves, len(qkv))
        turned.append(qkv)
        np.testing.assert_array_equal(qkv, turned[0])


@pytest.mark.parametrize(
    ("queries", "kv_heads", "head_dim"), [(8, 2, 64), (6, 1, 128), (5, 5, 32), (3, 1, 96)]
)
def test_quantised_output_is_the_output_quantised(
    compute: Compute, rng: np.random.Generator, queries: int, kv_heads: int, head_dim: int
) -> None:
    step = make_step(rng, [(0, 20), (290, 1), (7, 9)], queries, kv_heads, head_dim, 16, ElementType.F16)
    wanted, got = (Q80Rows(30, queries * head_dim) for _ in range(2))
    compute.quantize_rows(wanted, step.attend(compute, 0, queries // kv_heads, 0, slice(None)), 30)
    step.attend_to(got, compute, 0, queries // kv_heads)
    np.testing.assert_array_equal(got.quants, wanted.quants)
    np.testing.assert_array_equal(got.scales, wanted.scales)
    np.testing.assert_array_equal(got.sums, wanted.sums)


def test_quantised_output_needs_whole_blocks(compute: Compute, rng: np.random.Generator) -> None:
    step = make_step(rng, [(0, 2)], 4, 1, 40, 16, ElementType.F32)
    with pytest.raises(ValueError, match="out must be float32 where heads are not whole blocks of 32"):
        step.attend_to(Q80Rows(2, 160), compute, 0, 4)


def test_threads_that_share_runs_of_rows_give_the_same(compute: Compute, rng: np.random.Generator) -> None:
    step = make_step(rng, [(0, 150), (40, 3), (17, 140)], 8, 2, 64, 16, ElementType.F16)
    wanted = step.attend(compute, 0, 4, 0, slice(None))
    for n_threads in (2, 3, 5):
        got = step.attend(Compute(n_threads, compute.isa), 0, 4, 0, slice(None))
        np.testing.assert_array_equal(got, wanted)
