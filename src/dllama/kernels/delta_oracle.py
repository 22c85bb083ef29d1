"""What the kernels of gated delta nets compute (Yang et al. 2024, arXiv:2412.06464), in NumPy; sums are in float64.

T rows of one sequence, C channels, W inputs of a convolution, H heads, DK and DV widths of keys and values.
"""

from __future__ import annotations

import numpy as np

from dllama.kernels.oracle import Float64, Floats

NORM_EPS = 1e-6
"""Of the norm of queries and keys."""


def causal_conv(x: Floats, weights: Floats, state: Floats) -> tuple[Float64, Float64]:
    """silu of the sum over j of weights[j] * x[t - W + 1 + j], with the inputs before x in `state [W - 1, C]`:
    `[T, C]`, and the state behind x."""
    inputs = np.concatenate([state, x]).astype(np.float64)
    n_before, n_rows = len(state), len(x)
    sums = np.zeros(x.shape)
    for j, weight in enumerate(weights):
        sums += weight * inputs[j : j + n_rows]
    return silu(sums), np.asarray(inputs[len(inputs) - n_before :])


def delta_rule(
    queries: Floats, keys: Floats, values: Floats, decay: Floats, strength: Floats, state: Floats
) -> tuple[Float64, Float64]:
    """Row by row: state := decay * state, then += key (x) strength * (value - state @ key); out := state @ query.

    queries and keys [T, H, DK] as they are before their norm, values [T, H, DV], decay and strength [T, H], state
    [H, DK, DV]. Returns `[T, H, DV]`, and the state behind the rows.
    """
    queries, keys = l2_norm(queries) / np.sqrt(queries.shape[-1]), l2_norm(keys)
    kept, out = np.array(state, np.float64), np.zeros(values.shape)
    for t in range(len(values)):
        kept *= decay[t][:, None, None]
        predicted = np.einsum("hkv,hk->hv", kept, keys[t])
        change = strength[t][:, None] * (values[t] - predicted)
        kept += keys[t][:, :, None] * change[:, None, :]
        out[t] = np.einsum("hkv,hk->hv", kept, queries[t])
    return out, kept


def delta_rule_of_chunk(
    queries: Floats, keys: Floats, values: Floats, decay: Floats, strength: Floats, state: Floats
) -> tuple[Float64, Float64]:
    """The same of all rows at once, in its chunked form (section 3.3 there): products of matrices, and one triangular
    system for what each row changes."""
    queries, keys = l2_norm(queries) / np.sqrt(queries.shape[-1]), l2_norm(keys)
    so_far = np.cumsum(np.log(decay.astype(np.float64)), axis=0)  # [T, H]
    out, states = np.empty(values.shape), np.empty(state.shape)
    for h in range(values.shape[1]):
        k, q, beta, total = keys[:, h], queries[:, h], strength[:, h, None], so_far[:, h]
        between = np.tril(np.exp(np.minimum(total[:, None] - total, 0)))
        before = np.exp(total)[:, None]
        system = np.eye(len(k)) + np.tril(beta * (k @ k.T) * between, -1)
        changes = np.linalg.solve(system, beta * (values[:, h] - before * (k @ state[h])))
        out[:, h] = before * (q @ state[h]) + ((q @ k.T) * between) @ changes
        states[h] = np.exp(total[-1]) * state[h] + (k * np.exp(total[-1] - total)[:, None]).T @ changes
    return out, states


def decay_of(alpha: Floats, log_rate: Floats, dt_bias: Floats) -> Float64:
    """exp(-exp(log_rate) * softplus(alpha + dt_bias)): what stays of a state."""
    return np.asarray(
        np.exp(-np.exp(log_rate.astype(np.float64)) * np.logaddexp(0, alpha.astype(np.float64) + dt_bias))
    )


def l2_norm(x: Floats) -> Float64:
    wide = x.astype(np.float64)
    return np.asarray(wide / np.sqrt((wide**2).sum(-1, keepdims=True) + NORM_EPS))


def sigmoid(x: Floats) -> Float64:
    return np.asarray(1 / (1 + np.exp(-x.astype(np.float64))))


def silu(x: Floats) -> Float64:
    return np.asarray(x * sigmoid(x))
