"""What the kernels of mixtures of experts compute, in NumPy and float64 (their router: router_oracle.py)."""

from __future__ import annotations

import numpy as np

from dllama.kernels.oracle import Float64, Floats, Ints, gated, matmul


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
