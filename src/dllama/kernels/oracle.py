"""What the native kernels compute, in NumPy: the reference of their tests, written for reading and not for speed.

Sums are in float64, so that a kernel's distance from here is the kernel's own rounding. Quantisation follows float32
step by step and agrees with the kernels bit for bit.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from dllama.dtypes import BLOCK, ElementType
from dllama.kernels.blocks import decode as decode

Floats = NDArray[np.floating]
Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]
Bytes = NDArray[np.uint8]
Ints = NDArray[np.int32]

_Q40 = np.dtype([("scale", "<f2"), ("nibbles", "u1", 16)])
_Q80 = np.dtype([("scale", "<f2"), ("quants", "i1", 32)])


def _inverse_or_zero(scale: Float32) -> Float32:
    """1 / scale, and 0 where float32 has no such number."""
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        inverse = np.float32(1) / scale
    return np.where(np.isfinite(inverse), inverse, np.float32(0))


def quantize(x: Float32) -> tuple[NDArray[np.int8], Float32, Ints]:
    """`x [..., n]` in blocks of 32: quants `[..., n]`, scales `[..., n/32]` rounded through float16, sums of quants."""
    blocks = x.reshape(*x.shape[:-1], -1, BLOCK)
    scale = np.abs(blocks).max(-1) / np.float32(127)
    quants = np.rint(blocks * _inverse_or_zero(scale)[..., None]).astype(np.int8)
    with np.errstate(over="ignore"):
        rounded = scale.astype(np.float16).astype(np.float32)
    return quants.reshape(x.shape), rounded, quants.sum(-1, dtype=np.int32)


def encode(dtype: ElementType, x: Float32) -> Bytes:
    """Rows `x [T, n]` as they lie in a file: uint8 `[T, row_bytes(dtype, n)]`. `decode`
    is the inverse, as far as there is one."""
    rows = x.shape[0]
    if dtype is ElementType.F32:
        return np.ascontiguousarray(x).view(np.uint8).reshape(rows, -1)
    if dtype is ElementType.F16:
        return x.astype(np.float16).view(np.uint8).reshape(rows, -1)
    if dtype is ElementType.BF16:
        return (x.view(np.uint32) >> 16).astype(np.uint16).view(np.uint8).reshape(rows, -1)
    blocks = x.reshape(rows, -1, BLOCK)
    if dtype is ElementType.Q80:
        q80 = np.zeros(blocks.shape[:2], _Q80)
        quants, _, _ = quantize(x)
        q80["scale"] = np.abs(blocks).max(-1) / np.float32(127)
        q80["quants"] = quants.reshape(blocks.shape)
        return q80.view(np.uint8).reshape(rows, -1)
    low, high = blocks.min(-1), blocks.max(-1)
    scale = np.where(-low > high, low, high) / np.float32(-8)
    scaled = blocks * _inverse_or_zero(scale)[..., None] + np.float32(8.5)
    nibbles = np.clip(scaled, 0, 15).astype(np.uint8)
    q40 = np.zeros(blocks.shape[:2], _Q40)
    q40["scale"] = scale
    q40["nibbles"] = nibbles[..., :16] | nibbles[..., 16:] << 4
    return q40.view(np.uint8).reshape(rows, -1)


def sum_in_order(parts: Float32) -> Float32:
    """The sum of `parts [P, ...]` in float32, the first two first."""
    total: Float32 = parts[0].copy()
    for part in parts[1:]:
        total += part
    return total


def matmul(weights: Floats, x: Floats) -> Float64:
    """`weights [n_out, n_in]`, `x [T, n_in]`, both decoded: `[T, n_out]`."""
    return x.astype(np.float64) @ weights.astype(np.float64).T


def rms_norm(x: Floats, weight: Floats, eps: float) -> Float64:
    wide = x.astype(np.float64)
    return np.asarray(wide / np.sqrt((wide**2).mean(-1, keepdims=True) + eps) * weight)


def layer_norm(x: Floats, weight: Floats, bias: Floats, eps: float) -> Float64:
    wide = x.astype(np.float64)
    off = wide - wide.mean(-1, keepdims=True)
    return np.asarray(off / np.sqrt((off**2).mean(-1, keepdims=True) + eps) * weight + bias)


def gated(gate_up: Floats, activation: str) -> Float64:
    """act(gate) * up of `gate_up [T, 2F]`: `[T, F]`. gelu in its tanh form; `swiglu_oai` see Device.silu_mul."""
    gate, up = np.split(gate_up.astype(np.float64), 2, axis=-1)
    if activation == "swiglu_oai":
        gate, up = np.minimum(gate, 7), np.clip(up, -7, 7) + 1
    exponent = 1.702 * gate if activation == "swiglu_oai" else gate
    if activation == "gelu":  # (1 + tanh(u)) / 2 = 1 / (1 + e^(-2u)), without its cancellation
        exponent = 2 * np.sqrt(2 / np.pi) * (gate + 0.044715 * gate**3)
    with np.errstate(over="ignore"):
        return np.asarray(gate / (1 + np.exp(-exponent)) * up)


def soft_cap(x: Floats, scale: float, cap: float) -> Float64:
    scaled = scale * x.astype(np.float64)
    return cap * np.tanh(scaled / cap) if cap else scaled


def rope(x: Floats, cos_sin: Floats, n_halves: int) -> Float64:
    """Rotates `x [T, H, E]` by `cos_sin [T, E/2, 2]`: pairs (i, i + n_halves/2) of its first n_halves elements, pairs
    (2i, 2i + 1) of the others."""
    wide, half = x.astype(np.float64), n_halves // 2
    first = np.concatenate([wide[..., :half], wide[..., n_halves::2]], axis=-1)
    second = np.concatenate([wide[..., half:n_halves], wide[..., n_halves + 1 :: 2]], axis=-1)
    cos, sin = cos_sin[:, None, :, 0], cos_sin[:, None, :, 1]
    one, other = first * cos - second * sin, first * sin + second * cos
    pairs = np.stack([one[..., half:], other[..., half:]], axis=-1).reshape(*x.shape[:-1], -1)
    return np.concatenate([one[..., :half], other[..., :half], pairs], axis=-1)


def top_candidates(logits: Float32, n: int, temperature: Float32) -> tuple[Ints, Float32, Float64]:
    """For each row of `logits [N, V]` the n largest, of equals the first: places and values `[N, n]`; and the sums of
    exp(logit - largest) and of exp((logit - largest) / temperature): `[2, N]`, the second NaN at temperature 0.

    A row with NaN or infinity has the first n places, and NaN everywhere else; one of nothing but minus infinity
    sums of 0.
    """
    bad = ~(logits.max(-1) < np.inf)
    places = np.argsort(-logits, axis=-1, kind="stable")[:, :n].astype(np.int32)
    places[bad] = np.arange(n)
    values = np.take_along_axis(logits, places, axis=-1)
    values[bad] = np.nan
    sums = np.full((2, len(logits)), np.nan)
    for index in np.flatnonzero(~bad):
        below = logits[index].astype(np.float64) - max(values[index, 0], np.finfo(np.float32).min)
        sums[0, index] = np.exp(below).sum()
        if temperature[index] > 0:
            sums[1, index] = np.exp(below / temperature[index]).sum()
    return places, values, sums


def merge_candidates(
    parts: Sequence[tuple[Ints, Float32, Float64, Float32]], temperature: Float32, n: int
) -> tuple[Ints, Float32, Float64, Float32]:
    """Each part: ids and logits `[N, C_part]`, both sums `[2, N]` and a target's logit `[N]`, NaN for none. Of all of
    them the n largest: ids and logits `[N, n]`, of equals those of the first part; the logs of the sums of exp(logit)
    and of exp(logit / temperature) `[2, N]`; the one target's logit `[N]`."""
    ids = np.concatenate([part[0] for part in parts], axis=1)
    logits = np.concatenate([part[1] for part in parts], axis=1)
    order = np.argsort(-logits, axis=1, kind="stable")[:, :n]
    with np.errstate(divide="ignore", invalid="ignore"):
        largest = np.stack([part[1][:, 0].astype(np.float64) for part in parts])
        scaled = np.stack([largest, largest / temperature])  # [2, n_parts, N]
        sums = np.stack([part[2] for part in parts], axis=1)
        of_all = scaled.max(axis=1)
        terms = np.where(sums == 0, 0, sums * np.exp(scaled - of_all[:, None]))
        log_sums = np.log(terms.sum(axis=1)) + of_all
    targets = np.fmax.reduce([part[3] for part in parts])
    return (
        np.take_along_axis(ids, order, axis=1),
        np.take_along_axis(logits, order, axis=1),
        log_sums,
        targets,
    )


def gather(cache: Floats, pages: Ints, n: int) -> Float64:
    """The first n positions of a sequence with these pages, from `cache [n_pages, K, P, E]`: `[n, K, E]`."""
    page_size = cache.shape[2]
    position = np.arange(n)
    return cache[pages[position // page_size], :, position % page_size].astype(np.float64)


def attention(
    queries: Floats,
    positions: Ints,
    sequence: Ints,
    page_table: Ints,
    k_cache: Floats,
    v_cache: Floats,
    head_offset: int,
    group: int,
    window: int,
    sinks: Floats | None = None,
    cap: float = 0.0,
) -> Float64:
    """Softmax attention of `queries [T, H, E]` over the paged caches `[n_pages, K, P, E]`: `[T, H, E]`. `sinks` [H]: a
    logit more for each head, without a value; `cap`: the soft cap of scores, 0 for none."""
    out = np.zeros(queries.shape)
    kv_head = (np.arange(queries.shape[1]) + head_offset) // group
    for t, (position, of) in enumerate(zip(positions, sequence, strict=True)):
        begin = max(0, position - window + 1) if window else 0
        keys = gather(k_cache, page_table[of], position + 1)[begin:, kv_head]
        values = gather(v_cache, page_table[of], position + 1)[begin:, kv_head]
        scores = np.einsum("he,phe->hp", queries[t].astype(np.float64), keys)
        scores = soft_cap(scores, queries.shape[2] ** -0.5, cap)
        top = scores.max(-1, keepdims=True)
        weights = np.exp(scores - top)
        total = weights.sum(-1, keepdims=True)
        if sinks is not None:
            total += np.exp(sinks[:, None] - top)
        out[t] = np.einsum("hp,phe->he", weights / total, values)
    return out
