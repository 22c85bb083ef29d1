"""What the kernels of mixtures of experts compute, in NumPy.

A router's arithmetic is float32 step by step, since ranks with different CPUs must choose the same experts: its logits
and weights agree with the kernels' bit for bit. Products are float64, as in oracle.py.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from dllama.kernels.oracle import Float32, Float64, Floats, Ints, gated, matmul

_LANES = 16
_MAGIC = np.float32(1.5 * 2**23)
"""Added to a small number it leaves the nearest whole number in the low bits."""


@dataclasses.dataclass(frozen=True)
class Routes:
    logits: Float32  # [T, n_experts]
    ids: Ints  # [T, top_k] by falling logit, of equals the lower id first
    weights: Float32  # [T, top_k]


def fixed_order_products(x: Float32, weights: Float32) -> Float32:
    """`x [T, D]` times `weights [N, D]`: `[T, N]`. Column i is added in lane i % 16, and lanes are folded in halves."""
    pad = -x.shape[1] % _LANES
    x, weights = (np.pad(array, ((0, 0), (0, pad))) for array in (x, weights))
    lanes = np.zeros((len(x), len(weights), _LANES), np.float32)
    for i in range(0, x.shape[1], _LANES):
        lanes += x[:, None, i : i + _LANES] * weights[None, :, i : i + _LANES]
    while lanes.shape[2] > 1:
        lanes = lanes[..., : lanes.shape[2] // 2] + lanes[..., lanes.shape[2] // 2 :]
    return lanes[..., 0]


def fixed_order_norm(x: Float32, weight: Float32, eps: float) -> Float32:
    """RMS norm of `x [T, D]`."""
    squares = np.concatenate([fixed_order_products(row, row) for row in x[:, None]])
    scale = np.float32(1) / np.sqrt(squares / np.float32(x.shape[1]) + np.float32(eps))
    return np.asarray((x * scale) * weight)


def exp_below_zero(x: Float32) -> Float32:
    """e^x for x <= 0, each operation rounded by itself; 0 below -87."""
    with np.errstate(invalid="ignore"):
        y = np.maximum(x, np.float32(-87))
        shifted = y * np.float32(1.44269504) + _MAGIC
        n = shifted - _MAGIC
        r = (y - n * np.float32(0.693359375)) + n * np.float32(2.12194440e-4)
        p = np.full_like(x, 1.9875691500e-4)
        for term in (1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1):
            p = p * r + np.float32(term)
        p = (r * r) * p + (r + np.float32(1))
        power = np.exp2(np.where(np.isnan(n), 0, n)).astype(np.float32)
    return np.where(x < -87, np.float32(0), p * power)


def route(x: Float32, norm: Float32, eps: float, weights: Float32, top_k: int, renormalised: bool) -> Routes:
    """The experts of each row of the residual stream `x [T, D]`: softmax over all, the top_k largest, and where
    `renormalised` their weights sum to 1."""
    logits = fixed_order_products(fixed_order_norm(x, norm, eps), weights)
    ids = np.argsort(-logits, axis=1, kind="stable")[:, :top_k].astype(np.int32)
    chosen = np.take_along_axis(logits, ids, axis=1)
    terms = exp_below_zero(chosen - chosen[:, :1])
    total = np.zeros((len(x), 1), np.float32)
    for term in (terms if renormalised else exp_below_zero(logits - chosen[:, :1])).T:
        total += term[:, None]
    return Routes(logits, ids, terms / total)


def experts_gated(gate: Floats, up: Floats, x: Floats, ids: Ints, activation: str) -> Float64:
    """act(gate) * up of each row of `x [T, D]` at each of its experts, of `[n_experts, F, D]`: `[T, top_k, F]`."""
    rows = zip(x, ids, strict=True)
    return np.stack([[_gated_row(gate[e], up[e], row, activation) for e in experts] for row, experts in rows])


def _gated_row(gate: Floats, up: Floats, row: Floats, activation: str) -> Float64:
    return np.asarray(
        gated(np.concatenate([matmul(gate, row[None]), matmul(up, row[None])], axis=1), activation)[0]
    )


def experts_down(down: Floats, activated: Floats, ids: Ints, weights: Floats) -> Float64:
    """The weighted sum over the experts of each row of `activated [T, top_k, F]`, with `down [n_experts, D, F]`."""
    out = np.zeros((len(ids), down.shape[1]))
    for t, experts in enumerate(ids):
        for k, expert in enumerate(experts):
            out[t] += np.float64(weights[t, k]) * matmul(down[expert], activated[t, k][None])[0]
    return out


def by_slot(ids: Ints) -> tuple[Ints, Ints]:
    """Row and place among its experts of each slot: slots are ordered by expert, then by row."""
    order = np.argsort(ids.ravel(), kind="stable")
    return order // ids.shape[1], order % ids.shape[1]
