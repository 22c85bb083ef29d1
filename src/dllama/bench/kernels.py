"""Each kernel by itself, on arrays like those of a model with 1 to 3 billion weights, beside the machine's limits.

D 2048, F 8192, H 32 query heads, K 8 KV heads of 64. What a decode step reads from memory lies in memory here too:
as many copies as no cache holds are used in turn.
"""

from __future__ import annotations

import dataclasses
import itertools
import statistics
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from dllama.bench.limits import Limits, seconds_of
from dllama.bench.random_blocks import random_blocks
from dllama.dtypes import ElementType, row_bytes
from dllama.kernels import Compute, PackedMatrix, Q80Rows
from dllama.model import PAGE_SIZE

_D, _F, _HEADS, _KV_HEADS, _HEAD_DIM = 2048, 8192, 32, 8, 64
_QKV = (_HEADS + 2 * _KV_HEADS) * _HEAD_DIM
_ROWS = (1, 8, 64, 512)
_CACHE_TYPES = {ElementType.F16: np.float16, ElementType.Q80: np.uint8, ElementType.F32: np.float32}

_BEYOND_CACHES = 128 << 20
"""Bytes of all copies of what is read from memory."""

_MOST_RUNS = 200


@dataclasses.dataclass(frozen=True, kw_only=True)
class KernelSpeed:
    """`fraction` of the time that the nearer limit would take: reading `n_bytes`, or `n_operations` of the kind that
    the kernel is made of. Above 1 where a processor's cache is faster than memory."""

    isa: str
    kernel: str
    n_rows: int
    us: float
    gb_per_s: float
    gops: float
    fraction: float


@dataclasses.dataclass(frozen=True)
class _Case:
    """run() once is one call of a kernel."""

    kernel: str
    n_rows: int
    run: Callable[[], object]
    n_bytes: int
    n_operations: int = 0
    is_integer: bool = False


def measure_kernels(compute: Compute, long_enough_s: float = 0.2) -> Iterator[KernelSpeed]:
    """The kernels of `compute`'s instruction set with its threads, in the order of a table; each at least once, and
    again until `long_enough_s` have passed."""
    limits = Limits(compute)
    for case in _cases(compute):
        read = _median(limits.read_gb_per_s)
        limit_gops = _median(limits.peak_gops if case.is_integer else limits.float_gops)
        seconds = _median_seconds(case.run, long_enough_s)
        least_s = max(1e-9 * case.n_bytes / read, 1e-9 * case.n_operations / limit_gops)
        yield KernelSpeed(
            isa=compute.isa,
            kernel=case.kernel,
            n_rows=case.n_rows,
            us=1e6 * seconds,
            gb_per_s=1e-9 * case.n_bytes / seconds,
            gops=1e-9 * case.n_operations / seconds,
            fraction=least_s / seconds,
        )


def n_kernels() -> int:
    """How many numbers measure_kernels yields."""
    return len(_ROWS) * len(_PRODUCTS) + 2 * len(_CACHE_TYPES) + 2 * len(_ROW_KERNELS)


def _median(limit: Callable[[], float]) -> float:
    return statistics.median(limit() for _ in range(3))


def _median_seconds(run: Callable[[], object], long_enough_s: float) -> float:
    run()
    times = [seconds_of(run)]
    while sum(times) < long_enough_s and len(times) < _MOST_RUNS:
        times.append(seconds_of(run))
    return statistics.median(times)


def _cases(compute: Compute) -> Iterator[_Case]:
    for dtype in _PRODUCTS:
        yield from _products(compute, dtype)
    for cache_type in _CACHE_TYPES:
        yield _attention(compute, cache_type, n_rows=1, position=8191)
        yield _attention(compute, cache_type, n_rows=512, position=0)
    for make in _ROW_KERNELS:
        for n_rows in (1, 512):
            yield make(compute, n_rows)


_PLAIN = (ElementType.F16, ElementType.F32)
_PRODUCTS = (*(dtype for dtype in ElementType if dtype.is_blocked), *_PLAIN)


def _random_rows(dtype: ElementType) -> NDArray[np.uint8]:
    """`[D, bytes of D elements]`: no number is large, subnormal (slow on some CPUs) or not finite."""
    random = np.random.default_rng(0)
    if dtype.is_blocked:
        return random_blocks(random, dtype, _D * _D // dtype.block, 1).reshape(_D, -1)
    numbers = random.standard_normal((_D, _D), np.float32)
    return numbers.astype("<f2" if dtype is ElementType.F16 else "<f4").view(np.uint8)


def _products(compute: Compute, dtype: ElementType) -> Iterator[_Case]:
    """[D, D] x [T, D]."""
    n_bytes = _D * row_bytes(dtype, _D)
    rows = _random_rows(dtype)
    matrices = []
    for _ in range(-(-_BEYOND_CACHES // n_bytes)):
        matrix = PackedMatrix(compute, dtype, _D, _D)
        matrix.pack(0, rows)
        matrices.append(matrix)
    turn = itertools.cycle(matrices)
    for n_rows in _ROWS:
        x = np.random.default_rng(1).standard_normal((n_rows, _D), np.float32)
        out = np.empty((n_rows, _D), np.float32)
        inputs = _quantized(compute, x) if dtype.is_blocked else x
        yield _Case(
            f"{dtype.label} product",
            n_rows,
            lambda x=inputs, out=out, n=n_rows: compute.matmul(out, next(turn), x, n),  # type: ignore[misc]
            n_bytes,
            2 * n_rows * _D * _D,
            is_integer=dtype.is_blocked,
        )


def _attention(compute: Compute, cache_type: ElementType, n_rows: int, position: int) -> _Case:
    """Rows of one text from `position` on."""
    n_pages = (position + n_rows + PAGE_SIZE - 1) // PAGE_SIZE
    numpy_type = np.dtype(_CACHE_TYPES[cache_type])
    width = row_bytes(cache_type, _HEAD_DIM) // numpy_type.itemsize
    shape = (n_pages, _KV_HEADS, PAGE_SIZE, width)
    n_bytes = 2 * n_pages * _KV_HEADS * PAGE_SIZE * row_bytes(cache_type, _HEAD_DIM)
    n_copies = max(1, -(-_BEYOND_CACHES // n_bytes)) if n_rows == 1 else 1
    caches = []
    for _ in range(n_copies):
        pair = [np.empty(shape, numpy_type) for _ in range(2)]
        for cache in pair:
            cache.view(np.uint8)[:] = 0x11  # small numbers in every type
        caches.append(pair)
    turn = itertools.cycle(caches)
    qkv = np.random.default_rng(0).standard_normal((n_rows, _QKV), np.float32)
    out = np.empty((n_rows, _HEADS * _HEAD_DIM), np.float32)
    positions = np.arange(position, position + n_rows, dtype=np.int32)
    sequence, table = np.zeros(n_rows, np.int32), np.arange(n_pages, dtype=np.int32)[None]

    def run() -> None:
        keys, values = next(turn)
        compute.attention(
            out, qkv, positions, sequence, table, keys, values, _HEADS, 0, _HEADS // _KV_HEADS, 0, n_rows
        )

    n_pairs = int((positions.astype(np.int64) + 1).sum())
    name = f"{cache_type.label} attention at {position}"
    return _Case(name, n_rows, run, n_bytes, 4 * n_pairs * _HEADS * _HEAD_DIM)


def _rms_norm(compute: Compute, n_rows: int) -> _Case:
    x, weight, out = _ones(n_rows, _D), _ones(_D), Q80Rows(n_rows, _D)
    n_bytes = n_rows * (4 * _D + _quant_bytes(_D))
    return _Case(
        "rms_norm + quantise", n_rows, lambda: compute.rms_norm(out, x, weight, 1e-5, n_rows), n_bytes
    )


def _rope_store(compute: Compute, n_rows: int) -> _Case:
    qkv, cos_sin = _ones(n_rows, _QKV), _ones(n_rows, _HEAD_DIM // 2, 2)
    n_pages = -(-n_rows // PAGE_SIZE)
    keys, values = np.zeros((2, n_pages, _KV_HEADS, PAGE_SIZE, _HEAD_DIM), np.float16)
    positions, sequence = np.arange(n_rows, dtype=np.int32), np.zeros(n_rows, np.int32)
    table = np.arange(n_pages, dtype=np.int32)[None]

    def run() -> None:
        compute.rope_store(qkv, cos_sin, positions, sequence, table, keys, values, _HEADS, 0, n_rows)

    turned = 2 * 4 * (_HEADS + _KV_HEADS) * _HEAD_DIM
    return _Case("rope + store f16", n_rows, run, n_rows * (turned + 2 * (4 + 2) * _KV_HEADS * _HEAD_DIM))


def _silu_mul(compute: Compute, n_rows: int) -> _Case:
    gate_up, out = _ones(n_rows, 2 * _F), Q80Rows(n_rows, _F)
    n_bytes = n_rows * (8 * _F + _quant_bytes(_F))
    return _Case(
        "silu x mul + quantise", n_rows, lambda: compute.silu_mul(out, gate_up, n_rows, "silu"), n_bytes
    )


def _quantise(compute: Compute, n_rows: int) -> _Case:
    x, out = _ones(n_rows, _D), Q80Rows(n_rows, _D)
    n_bytes = n_rows * (4 * _D + _quant_bytes(_D))
    return _Case("quantise", n_rows, lambda: compute.quantize_rows(out, x, n_rows), n_bytes)


def _encode(compute: Compute, n_rows: int) -> _Case:
    x, out = _ones(n_rows, _D), np.empty((n_rows, row_bytes(ElementType.Q80, _D)), np.uint8)
    return _Case("encode q80", n_rows, lambda: compute.encode_q80(out, x, n_rows), x.nbytes + out.nbytes)


_ROW_KERNELS = (_rms_norm, _rope_store, _silu_mul, _quantise, _encode)


def _quantized(compute: Compute, x: np.ndarray[tuple[int, int], np.dtype[np.float32]]) -> Q80Rows:
    rows = Q80Rows(*x.shape)
    compute.quantize_rows(rows, x, len(x))
    return rows


def _ones(*shape: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return np.ones(shape, np.float32)


def _quant_bytes(n: int) -> int:
    """Bytes of quants, scales and sums."""
    return n + n // 32 * 8
