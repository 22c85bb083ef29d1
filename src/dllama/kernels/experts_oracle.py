"""What the kernels of mixtures of experts compute, in NumPy and float64 (their router: router_oracle.py)."""

from __future__ import annotations

import numpy as np

from dllama.kernels.oracle import Float64, Floats, Ints, gated, matmul


def experts_gated(
    gate: Floats,
    up: Floats,
    x: Floats,
    ids: Ints,
    activation: str,
    biases: tuple[Floats, Floats] | None = None,
) -> Float64:
    """act(gate) * up of each row of `x [T, D]` at each of its experts, of `[n_experts, F, D]`: `[T, top_k, F]`.
    `biases` [n_experts, F] are added to gate and up before."""
    rows = zip(x, ids, strict=True)
    parts = [[[_row(part[e], row) for part in (gate, up)] for e in experts] for row, experts in rows]
    products = np.array(parts)  # [T, top_k, 2, F]
    if biases is not None:
        products += np.stack(biases, axis=1)[ids]
    return gated(products.reshape(*ids.shape, -1), activation)


def experts_down(
    down: Floats, activated: Floats, ids: Ints, weights: Floats, bias: Floats | None = None
) -> Float64:
    """The weighted sum over the experts of each row of `activated [T, top_k, F]`, with `down [n_experts, D, F]`;
    `bias` [n_experts, D] is added to each product before."""
    out = np.zeros((len(ids), down.shape[1]))
    for t, experts in enumerate(ids):
        for k, expert in enumerate(experts):
            product = _row(down[expert], activated[t, k])
            out[t] += np.float64(weights[t, k]) * (product if bias is None else product + bias[expert])
    return out


def _row(matrix: Floats, row: Floats) -> Float64:
    return np.asarray(matmul(matrix, row[None])[0])


def by_slot(ids: Ints) -> tuple[Ints, Ints]:
    """Row and place among its experts of each slot: slots are ordered by expert, then by row."""
    order = np.argsort(ids.ravel(), kind="stable")
    return order // ids.shape[1], order % ids.shape[1]
