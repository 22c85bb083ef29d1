"""Matrix products against the oracle, for every instruction set that this machine has."""

from __future__ import annotations

import numpy as np
import pytest

from dllama.dtypes import ElementType, row_bytes
from dllama.kernels import Compute, PackedMatrix, Q80Rows, oracle

from .checks import EPS, assert_within

BLOCKED = [ElementType.Q40, ElementType.Q80]
PLAIN = [ElementType.F16, ElementType.F32]


def packed(compute: Compute, dtype: ElementType, weights: np.ndarray) -> tuple[PackedMatrix, np.ndarray]:
    """The matrix, and the weights it stands for."""
    data = oracle.encode(dtype, weights)
    matrix = PackedMatrix(compute, dtype, *weights.shape)
    assert matrix.pack(0, data)
    return matrix, oracle.decode(dtype, data, weights.shape[1])


def quantized(compute: Compute, x: np.ndarray) -> tuple[Q80Rows, np.ndarray]:
    """Q80Rows of x, and the values they stand for."""
    rows = Q80Rows(len(x), x.shape[1])
    compute.quantize_rows(rows, x, len(x))
    return rows, rows.quants * np.repeat(rows.scales, 32, axis=1)


@pytest.mark.parametrize("n_rows", [1, 2, 3, 4, 5, 9, 38])
@pytest.mark.parametrize(
    ("n_out", "n_in"), [(1, 32), (7, 64), (8, 96), (17, 32), (33, 160), (70, 2048), (1101, 64)]
)
@pytest.mark.parametrize("dtype", BLOCKED)
def test_blocked_weights(
    compute: Compute, rng: np.random.Generator, dtype: ElementType, n_out: int, n_in: int, n_rows: int
) -> None:
    matrix, weights = packed(compute, dtype, rng.standard_normal((n_out, n_in)).astype(np.float32))
    rows, x = quantized(compute, rng.standard_normal((n_rows, n_in)).astype(np.float32))
    out = np.full((n_rows, n_out), np.nan, np.float32)
    compute.matmul(out, matrix, rows, n_rows)
    # A block's integer product is exact; scale, product and sum round once each: n / 32 + 3 roundings.
    bound = (n_in / 32 + 3) * EPS * oracle.matmul(np.abs(weights), np.abs(x))
    assert_within(out, oracle.matmul(weights, x), bound)


@pytest.mark.parametrize("n_rows", [1, 2, 3, 4, 5, 9])
@pytest.mark.parametrize(("n_out", "n_in"), [(1, 1), (7, 13), (8, 127), (17, 129), (33, 300), (70, 1031)])
@pytest.mark.parametrize("dtype", PLAIN)
def test_plain_weights(
    compute: Compute, rng: np.random.Generator, dtype: ElementType, n_out: int, n_in: int, n_rows: int
) -> None:
    matrix, weights = packed(compute, dtype, rng.standard_normal((n_out, n_in)).astype(np.float32))
    x = rng.standard_normal((n_rows, n_in)).astype(np.float32)
    out = np.full((n_rows, n_out), np.nan, np.float32)
    compute.matmul(out, matrix, x, n_rows)
    # Sums in runs of 128 columns, then of runs; product and sum round separately at worst.
    bound = (2 * 128 + n_in / 128 + 2) * EPS * oracle.matmul(np.abs(weights), np.abs(x))
    assert_within(out, oracle.matmul(weights, x), bound)


@pytest.mark.parametrize("n_rows", [1, 3, 9, 150])
@pytest.mark.parametrize("dtype", BLOCKED + PLAIN)
def test_products_are_added_to_what_is_there(
    compute: Compute, rng: np.random.Generator, dtype: ElementType, n_rows: int
) -> None:
    matrix, _ = packed(compute, dtype, rng.standard_normal((83, 160)).astype(np.float32))
    x = rng.standard_normal((n_rows, 160)).astype(np.float32)
    source = quantized(compute, x)[0] if dtype.is_blocked else x
    product = np.full((n_rows, 83), np.nan, np.float32)
    compute.matmul(product, matrix, source, n_rows)
    before = rng.standard_normal((n_rows, 83)).astype(np.float32)
    after = before.copy()
    compute.matmul(after, matrix, source, n_rows, add=True)
    if dtype.is_blocked:
        np.testing.assert_array_equal(after, before + product)
    else:  # two runs of columns, added one after the other
        assert_within(
            after, before.astype(np.float64) + product, 4 * EPS * (np.abs(before) + np.abs(product) + 30)
        )


@pytest.mark.parametrize("dtype", BLOCKED + PLAIN)
def test_value_depends_on_its_own_row_only(
    compute: Compute, rng: np.random.Generator, dtype: ElementType
) -> None:
    matrix, _ = packed(
        compute, dtype, rng.standard_normal((200, 1184)).astype(np.float32)
    )  # panels of 16, 16, 5
    x = rng.standard_normal((133, 1184)).astype(np.float32)
    alone, together = np.zeros((1, 200), np.float32), np.zeros((133, 200), np.float32)

    def run(out: np.ndarray, rows: np.ndarray, with_compute: Compute) -> None:
        source = quantized(with_compute, rows)[0] if dtype.is_blocked else rows
        with_compute.matmul(out, matrix, source, len(rows))

    run(together, x, compute)
    for n_threads in (1, 2, 3):
        other = Compute(n_threads, compute.isa)
        again = np.zeros_like(together)
        run(again, x, other)
        np.testing.assert_array_equal(again, together)
        for t in range(0, 133, 11):
            run(alone, x[t : t + 1].copy(), other)
            np.testing.assert_array_equal(alone[0], together[t])


@pytest.mark.parametrize("activation", ["silu", "gelu"])
@pytest.mark.parametrize(("n_ffn", "n_in"), [(32, 32), (96, 608), (288, 1184)])
@pytest.mark.parametrize("dtype", BLOCKED + PLAIN)
def test_gated_product_is_product_and_activation(
    compute: Compute, rng: np.random.Generator, dtype: ElementType, n_ffn: int, n_in: int, activation: str
) -> None:
    matrix, _ = packed(compute, dtype, rng.standard_normal((2 * n_ffn, n_in)).astype(np.float32))
    for n_rows in (1, 4, 5, 19, 134):
        x = rng.standard_normal((n_rows, n_in)).astype(np.float32)
        source = quantized(compute, x)[0] if dtype.is_blocked else x
        product, scratch = (np.full((n_rows, 2 * n_ffn), np.nan, np.float32) for _ in range(2))
        wanted, got = Q80Rows(n_rows, n_ffn), Q80Rows(n_rows, n_ffn)
        compute.matmul(product, matrix, source, n_rows)
        compute.silu_mul(wanted, product, n_rows, activation)
        compute.gated_matmul(got, matrix, source, scratch, n_rows, activation)
        np.testing.assert_array_equal(got.quants, wanted.quants)
        np.testing.assert_array_equal(got.scales, wanted.scales)
        np.testing.assert_array_equal(got.sums, wanted.sums)


@pytest.mark.parametrize("dtype", BLOCKED + PLAIN)
def test_any_run_of_rows_can_be_packed(
    compute: Compute, rng: np.random.Generator, dtype: ElementType
) -> None:
    data = oracle.encode(dtype, rng.standard_normal((45, 96)).astype(np.float32))
    matrix = PackedMatrix(compute, dtype, 45, 96)
    for begin, end in [(40, 45), (0, 3), (3, 24), (24, 40)]:
        assert matrix.pack(begin, data[begin:end])
    np.testing.assert_array_equal(matrix.unpack(0, 45), data)
    np.testing.assert_array_equal(matrix.unpack(5, 12), data[5:17])
    assert matrix.nbytes >= 45 * row_bytes(dtype, 96)
    assert matrix.dtype is dtype
