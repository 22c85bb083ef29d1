"""What the router of a mixture of experts computes, in NumPy.

Its arithmetic is float32 step by step, since ranks with different CPUs must choose the same experts: logits and weights
agree with the kernels' bit for bit.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from dllama.kernels.oracle import Float32, Ints

_LANES = 16
_MAGIC = np.float32(1.5 * 2**23)
"""Added to a small number it leaves the nearest whole number in the low bits."""


_LEAST_SUM = np.float32(1e-20)
"""Added to a sum of sigmoids, as the models were trained: it may be 0."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rule:
    """How experts are chosen and weighted: see Device.route."""

    top_k: int
    renormalised: bool
    sigmoid: bool = False
    choice_bias: Float32 | None = None  # [n_experts]
    logit_bias: Float32 | None = None  # [n_experts]
    n_groups: int = 1
    top_groups: int = 1
    group_best: int = 1
    scale: float = 1.0

    def check(self, n_experts: int) -> None:
        """Raises ValueError for what cannot be."""
        if self.choice_bias is not None and (not self.sigmoid or len(self.choice_bias) != n_experts):
            raise ValueError(f"choice_bias is for sigmoids, and of {n_experts} experts")
        if self.logit_bias is not None and len(self.logit_bias) != n_experts:
            raise ValueError(f"logit_bias must be of {n_experts} experts")
        if self.n_groups < 1 or n_experts % self.n_groups:
            raise ValueError("n_groups must divide n_experts")
        width = n_experts // self.n_groups
        if not 1 <= self.top_groups <= self.n_groups or self.top_groups * width < self.top_k:
            raise ValueError("top_groups must be 1 to n_groups, with experts enough")
        if not 1 <= self.group_best <= (min(2, width) if self.sigmoid else 1):
            raise ValueError("group_best must be 1, or with sigmoids 2 where groups have as many")


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


def sigmoid(x: Float32) -> Float32:
    """1 / (1 + e^-x), each operation rounded by itself."""
    e = exp_below_zero(-np.abs(x))
    return np.asarray(np.where(x < 0, e, np.float32(1)) / (np.float32(1) + e))


def largest(scores: Float32, n: int) -> Ints:
    """[T, n]: the places of the `n` largest of each row in falling order, of equals the lower one first."""
    return np.argsort(-scores, axis=1, kind="stable")[:, :n].astype(np.int32)


def route(x: Float32, norm: Float32, eps: float, weights: Float32, rule: Rule) -> Routes:
    """The experts of each row of the residual stream `x [T, D]`: see Device.route."""
    logits = fixed_order_products(fixed_order_norm(x, norm, eps), weights)
    if rule.logit_bias is not None:
        logits = logits + rule.logit_bias
    scores = sigmoid(logits) if rule.sigmoid else logits  # the softmax of logits falls as they do
    if rule.choice_bias is not None:
        scores = scores + rule.choice_bias
    ids = largest(_within_groups(scores, rule), rule.top_k)
    chosen = np.take_along_axis(logits, ids, axis=1)
    if rule.sigmoid:
        terms = sigmoid(chosen)
        divisor = _sum(terms) + _LEAST_SUM if rule.renormalised else np.float32(1)
    else:
        top = (chosen if rule.renormalised else logits).max(axis=1, keepdims=True)
        terms = exp_below_zero(chosen - top)
        divisor = _sum(terms if rule.renormalised else exp_below_zero(logits - top))
    return Routes(logits, ids, terms / divisor * np.float32(rule.scale))


def _within_groups(scores: Float32, rule: Rule) -> Float32:
    """The scores, those outside of the best groups minus infinity."""
    if rule.n_groups == rule.top_groups:
        return scores
    groups = scores.reshape(len(scores), rule.n_groups, -1)
    best = -np.sort(-groups, axis=2)[:, :, : rule.group_best]
    left = largest(best.sum(axis=2, dtype=np.float32), rule.n_groups)[:, rule.top_groups :]
    within = groups.copy()
    np.put_along_axis(within, left[:, :, None].astype(np.int64), np.float32(-np.inf), axis=1)
    return within.reshape(scores.shape)


def _sum(terms: Float32) -> Float32:
    """[T, 1]: of each row, one after the other."""
    total = np.zeros((len(terms), 1), np.float32)
    for term in terms.T:
        total += term[:, None]
    return total
