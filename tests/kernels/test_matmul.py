"""Matrix products against the oracle, for every instruction set that this machine has."""

from __future__ import annotations

import numpy as np
import pytest

from dllama.dtypes import ElementType, row_bytes
from dllama.kernels import Compute, PackedMatrix, Q80Rows, oracle

from .checks import EPS, assert_within
from .stored_weights import BLOCKED, FLOAT16_SCALES, NATIVE, PLAIN, parts, random_blocks, stored


def packed(compute: Compute, dtype: ElementType, data: np.ndarray, n_in: int) -> PackedMatrix:
    matrix = PackedMatrix(compute, dtype, len(data), n_in)
    assert matrix.pack(0, data)
    return matrix


def random_matrix(
    compute: Compute, rng: np.random.Generator, dtype: ElementType, n_out: int, n_in: int
) -> PackedMatrix:
    return packed(compute, dtype, stored(rng, dtype, n_out, n_in), n_in)


def whole_blocks(dtype: ElementType, n: int) -> int:
    return -(-n // dtype.block) * dtype.block


def quantized(compute: Compute, x: np.ndarray) -> tuple[Q80Rows, np.ndarray]:
    """Q80Rows of x, and the values they stand for."""
    rows = Q80Rows(len(x), x.shape[1])
    compute.quantize_rows(rows, x, len(x))
    return rows, rows.quants * np.repeat(rows.scales, 32, axis=1)


@pytest.mark.parametrize("n_rows", [1, 2, 3, 4, 5, 9, 38])
@pytest.mark.parametrize(("n_out", "n_in"), [(1, 32), (8, 96), (17, 32), (33, 160), (70, 2048), (1101, 64)])
@pytest.mark.parametrize("dtype", BLOCKED)
def test_blocked_weights(
    compute: Compute, rng: np.random.Generator, dtype: ElementType, n_out: int, n_in: int, n_rows: int
) -> None:
    n_in = whole_blocks(dtype, n_in)
    data = stored(rng, dtype, n_out, n_in)
    rows, x = quantized(compute, rng.standard_normal((n_rows, n_in)).astype(np.float32))
    out = np.full((n_rows, n_out), np.nan, np.float32)
    compute.matmul(out, packed(compute, dtype, data, n_in), rows, n_rows)
    # A run's integer product is exact; scale, product and sum round once each, two scales or minimums a block at most.
    scaled, minimums = parts(dtype, data, n_in)
    norms = oracle.matmul(np.abs(scaled), np.abs(x)) + oracle.matmul(np.abs(minimums), np.abs(x))
    bound = (2 * n_in / 32 + 4) * EPS * norms
    assert_within(out, oracle.matmul(oracle.decode(dtype, data, n_in), x), bound)


@pytest.mark.parametrize("n_rows", [1, 2, 3, 4, 5, 9])
@pytest.mark.parametrize(("n_out", "n_in"), [(1, 1), (7, 13), (8, 127), (17, 129), (33, 300), (70, 1031)])
@pytest.mark.parametrize("dtype", PLAIN)
def test_plain_weights(
    compute: Compute, rng: np.random.Generator, dtype: ElementType, n_out: int, n_in: int, n_rows: int
) -> None:
    data = stored(rng, dtype, n_out, n_in)
    matrix, weights = packed(compute, dtype, data, n_in), oracle.decode(dtype, data, n_in)
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
    n_in = whole_blocks(dtype, 160)
    matrix = random_matrix(compute, rng, dtype, 83, n_in)
    x = rng.standard_normal((n_rows, n_in)).astype(np.float32)
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


@pytest.mark.parametrize("n_rows", [1, 2, 9, 38])
@pytest.mark.parametrize("dtype", BLOCKED + PLAIN)
def test_products_that_stand_side_by_side(
    compute: Compute, rng: np.random.Generator, dtype: ElementType, n_rows: int
) -> None:
    """Matrices of different types share a buffer; what is beside the columns of one stays as it is."""
    n_in = whole_blocks(dtype, 160)
    matrix = random_matrix(compute, rng, dtype, 83, n_in)
    x = rng.standard_normal((n_rows, n_in)).astype(np.float32)
    source = quantized(compute, x)[0] if dtype.is_blocked else x
    product = np.empty((n_rows, 83), np.float32)
    compute.matmul(product, matrix, source, n_rows)
    for first in (0, 7, 17):
        before = rng.standard_normal((n_rows, 100)).astype(np.float32)
        out = before.copy()
        compute.matmul(out, matrix, source, n_rows, first_column=first)
        np.testing.assert_array_equal(out[:, first : first + 83], product)
        np.testing.assert_array_equal(out[:, :first], before[:, :first])
        np.testing.assert_array_equal(out[:, first + 83 :], before[:, first + 83 :])
    for first in (-1, 18):
        with pytest.raises(ValueError, match="first_column"):
            compute.matmul(out, matrix, source, n_rows, first_column=first)


@pytest.mark.parametrize("dtype", BLOCKED + PLAIN)
def test_value_depends_on_its_own_row_only(
    compute: Compute, rng: np.random.Generator, dtype: ElementType
) -> None:
    n_in = whole_blocks(dtype, 1184)  # panels of 16, 16, 5 blocks, or of 16, 16, 8
    matrix = random_matrix(compute, rng, dtype, 200, n_in)
    x = rng.standard_normal((133, n_in)).astype(np.float32)
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
    n_in = whole_blocks(dtype, n_in)
    matrix = random_matrix(compute, rng, dtype, 2 * n_ffn, n_in)
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
    n_in = 3 * 256
    data = stored(rng, dtype, 45, n_in)
    matrix = PackedMatrix(compute, dtype, 45, n_in)
    for begin, end in [(40, 45), (0, 3), (3, 24), (24, 40)]:
        assert matrix.pack(begin, data[begin:end])
    np.testing.assert_array_equal(matrix.unpack(0, 45), data)
    np.testing.assert_array_equal(matrix.unpack(5, 12), data[5:17])
    assert 45 * row_bytes(dtype, n_in) <= matrix.nbytes < 61 * row_bytes(dtype, n_in)
    assert matrix.dtype is dtype


@pytest.mark.parametrize("dtype", NATIVE)
def test_any_bytes_are_packed_and_unpacked(
    compute: Compute, rng: np.random.Generator, dtype: ElementType
) -> None:
    """Also NaN and infinity, which are reported."""
    data = rng.integers(0, 256, (37, 2 * 256 // dtype.block * dtype.block_bytes), np.uint8)
    matrix = PackedMatrix(compute, dtype, 37, 512)
    matrix.pack(0, data)
    np.testing.assert_array_equal(matrix.unpack(0, 37), data)


@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
@pytest.mark.parametrize("dtype", BLOCKED)
def test_scales_that_are_no_numbers_are_reported(
    compute: Compute, rng: np.random.Generator, dtype: ElementType, bad: float
) -> None:
    matrix = PackedMatrix(compute, dtype, 19, 512)
    good = random_blocks(rng, dtype, 19 * 512 // dtype.block)
    for block in (0, len(good) // 2, len(good) - 1):
        for at in FLOAT16_SCALES.get(dtype, ()):
            data = good.copy()
            data[block, at : at + 2] = np.array([bad], "<f2").view(np.uint8)
            assert not matrix.pack(0, data.reshape(19, -1))
        if dtype is ElementType.MXFP4:
            data = good.copy()
            data[block, 0] = 255
            assert not matrix.pack(0, data.reshape(19, -1))
    assert matrix.pack(0, good.reshape(19, -1))


@pytest.mark.parametrize("dtype", BLOCKED)
def test_the_largest_quants_fit(compute: Compute, dtype: ElementType) -> None:
    """Quants of nothing but zero or one bits against activations of 127: no sum of a block overflows."""
    x = np.ones((5, 512), np.float32)
    x[1], x[2, ::2] = -1, -1
    rows, values = quantized(compute, x)
    for byte in (0x00, 0xFF, 0x7F, 0x80, 0xF0, 0x0F):
        blocks = np.full((9 * 512 // dtype.block, dtype.block_bytes), byte, np.uint8)
        for at in FLOAT16_SCALES.get(dtype, ()):
            blocks[:, at : at + 2] = np.array([0.5], "<f2").view(np.uint8)
        if dtype is ElementType.MXFP4:
            blocks[:, 0] = 126
        data = blocks.reshape(9, -1)
        out = np.zeros((5, 9), np.float32)
        compute.matmul(out, packed(compute, dtype, data, 512), rows, 5)
        scaled, minimums = parts(dtype, data, 512)
        norms = oracle.matmul(np.abs(scaled) + np.abs(minimums), np.abs(values))
        assert_within(out, oracle.matmul(oracle.decode(dtype, data, 512), values), 40 * EPS * norms)
