"""What experts take is added up for each of them."""

from __future__ import annotations

import numpy as np

from dllama.calibration import watch
from dllama.calibration.watch import WatchingCpu
from dllama.dtypes import BLOCK, ElementType

N_EXPERTS, TOP_K, DIM, WIDTH = 6, 2, 64, 96


def test_the_mean_square_of_each_expert_is_that_of_its_rows() -> None:
    """With rows of the average expert beside them; one that no row has come to has these alone."""
    rng = np.random.default_rng(5)
    device, n_rows = WatchingCpu(1), 20
    gate_up = device.stack(ElementType.Q80, 2 * N_EXPERTS, WIDTH, DIM)
    down = device.stack(ElementType.Q80, N_EXPERTS, DIM, WIDTH)
    routes = device.routes(n_rows, N_EXPERTS, TOP_K)
    x, norm, router = (device.buffer(*shape) for shape in ((n_rows, DIM), (DIM,), (N_EXPERTS, DIM)))
    values = rng.standard_normal((n_rows, DIM)).astype(np.float32)
    device.view(x).array[...] = values
    device.view(norm).array[...] = 1
    weights = rng.standard_normal((N_EXPERTS, DIM)).astype(np.float32)
    weights[0] = 0
    weights[0, 0] = -1000  # and its logit is below all others
    device.view(x).array[:, 0] = values[:, 0] = 3
    device.view(router).array[...] = weights
    device.route(routes, x, norm, 1e-6, router, n_rows, True)
    rows, activated = device.quantised_rows(n_rows, DIM), device.quantised_rows(n_rows * TOP_K, WIDTH)
    device.quantize_rows(rows, x, n_rows)
    device.experts_gated(activated, gate_up, rows, routes, n_rows, "silu")
    some = device.buffer(n_rows * TOP_K, WIDTH)
    device.view(some).array[...] = rng.standard_normal((n_rows * TOP_K, WIDTH)).astype(np.float32)
    device.quantize_rows(activated, some, n_rows * TOP_K)
    device.experts_down(device.buffer(n_rows, DIM), down, activated, routes, n_rows)

    experts = routes.ids[:n_rows].ravel()
    slots = np.argsort(experts, kind="stable")
    assert 0 not in experts
    for stack, taken in ((gate_up, squares(rows)[slots // TOP_K]), (down, squares(activated))):
        of_slot, average = experts[slots], taken.mean(axis=0)
        found = device.mean_squares(stack)
        assert found is not None
        for expert in range(N_EXPERTS):
            mine, prior = taken[of_slot == expert], watch._PRIOR_ROWS
            wanted = (mine.sum(axis=0) + prior * average) / (len(mine) + prior)
            np.testing.assert_allclose(found[expert], wanted, rtol=1e-5)


def squares(rows: object) -> np.ndarray:
    quants, scales = rows.quants, rows.scales  # type: ignore[attr-defined]
    values = quants.reshape(len(quants), -1, BLOCK).astype(np.float64) * scales[:, :, None]
    found: np.ndarray = np.square(values.reshape(len(quants), -1))
    return found
