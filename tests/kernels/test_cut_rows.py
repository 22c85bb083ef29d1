"""Rows that are cut within blocks: a rank's columns of a matrix are those columns, bit for bit."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from dllama.dtypes import ElementType, cut_row_bytes, row_bytes, whole_blocks
from dllama.kernels import Compute, PackedMatrix, PackedStack, Q80Rows, RoutedRows, cut_rows, oracle
from dllama.kernels.cut_blocks import decode_cut

from .stored_weights import BLOCKED, stored

N_IN = 1536
LONG = [dtype for dtype in BLOCKED if dtype.block > 32]
HEADS = [
    (width * first, width * stop) for width in (32, 64, 96, 128) for first, stop in ((0, 1), (1, 3), (3, 12))
]
SPANS = [*HEADS, (0, N_IN), (256, 768), (224, 288), (480, 544), (160, 1504)]


def cut(dtype: ElementType, data: np.ndarray, start: int, stop: int) -> np.ndarray:
    whole = whole_blocks(dtype, start, stop)
    blocks = data[:, row_bytes(dtype, whole.start) : row_bytes(dtype, whole.stop)]
    out = np.empty((len(data), cut_row_bytes(dtype, start, stop)), np.uint8)
    cut_rows(out, dtype, np.ascontiguousarray(blocks), start, stop - start)
    return out


@pytest.mark.parametrize("dtype", BLOCKED)
def test_what_is_cut_are_the_same_values(rng: np.random.Generator, dtype: ElementType) -> None:
    data = stored(rng, dtype, 7, N_IN)
    values = oracle.decode(dtype, data, N_IN)
    for start, stop in SPANS:
        rows = cut(dtype, data, start, stop)
        np.testing.assert_array_equal(decode_cut(dtype, rows, start, stop), values[:, start:stop])
        if whole_blocks(dtype, start, stop) == range(start, stop):
            np.testing.assert_array_equal(rows, data[:, row_bytes(dtype, start) : row_bytes(dtype, stop)])


@pytest.mark.parametrize("dtype", LONG)
def test_a_cut_costs_no_more_than_the_scales_of_a_block(dtype: ElementType) -> None:
    scales = 2 * cut_row_bytes(dtype, 32, 64) - cut_row_bytes(dtype, 32, 96)
    assert 0 < scales < dtype.block_bytes / 8
    for edges in ((0, 32, N_IN), (0, 96, 544, 1312, N_IN), (0, 256, N_IN)):
        parts = [cut_row_bytes(dtype, start, stop) for start, stop in itertools.pairwise(edges)]
        n_within = sum(edge % dtype.block > 0 for edge in edges)
        assert sum(parts) == row_bytes(dtype, N_IN) + n_within * scales


@pytest.mark.parametrize("dtype", LONG)
def test_products_are_those_of_the_whole_with_zeros_elsewhere(
    compute: Compute, rng: np.random.Generator, dtype: ElementType
) -> None:
    data = stored(rng, dtype, 83, N_IN)
    whole = PackedMatrix(compute, dtype, 83, N_IN)
    assert whole.pack(0, data)
    for start, stop in SPANS:
        rows, n_in = cut(dtype, data, start, stop), stop - start
        matrix = PackedMatrix(compute, dtype, 83, n_in, start)
        for begin, end in ((40, 83), (0, 3), (3, 40)):
            assert matrix.pack(begin, rows[begin:end])
        np.testing.assert_array_equal(matrix.unpack(0, 83), rows)
        assert matrix.nbytes % rows.shape[1] == 0
        for n_rows in (1, 2, 4, 5, 38):
            x = np.zeros((n_rows, N_IN), np.float32)
            x[:, start:stop] = rng.standard_normal((n_rows, n_in))
            results = []
            for of, values in ((whole, x), (matrix, np.ascontiguousarray(x[:, start:stop]))):
                inputs = Q80Rows(n_rows, values.shape[1])
                compute.quantize_rows(inputs, values, n_rows)
                results.append(np.full((n_rows, 83), np.nan, np.float32))
                compute.matmul(results[-1], of, inputs, n_rows)
            np.testing.assert_array_equal(results[1], results[0])


@pytest.mark.parametrize("dtype", LONG)
def test_experts_are_cut_likewise(compute: Compute, rng: np.random.Generator, dtype: ElementType) -> None:
    n_experts, dim, n_rows, start, stop = 5, 64, 9, 160, 320
    data = stored(rng, dtype, n_experts * dim, 768).reshape(n_experts, dim, -1)
    down = PackedStack(compute, dtype, n_experts, dim, stop - start, start)
    whole = PackedStack(compute, dtype, n_experts, dim, 768)
    for index in range(n_experts):
        rows = cut(dtype, data[index], start, stop)
        assert down.pack(index, 0, rows)
        assert whole.pack(index, 0, data[index])
        np.testing.assert_array_equal(down.unpack(index, 0, dim), rows)
    routes = RoutedRows(n_rows, n_experts, 2)
    x = rng.standard_normal((n_rows, dim)).astype(np.float32)
    router = rng.standard_normal((n_experts, dim)).astype(np.float32)
    compute.route(routes, x, np.ones(dim, np.float32), 1e-5, router, n_rows, True)
    slots = np.zeros((2 * n_rows, 768), np.float32)
    slots[:, start:stop] = rng.standard_normal((2 * n_rows, stop - start))
    results = []
    for stack, values in ((whole, slots), (down, np.ascontiguousarray(slots[:, start:stop]))):
        inputs = Q80Rows(2 * n_rows, values.shape[1])
        compute.quantize_rows(inputs, values, 2 * n_rows)
        results.append(np.full((n_rows, dim), np.nan, np.float32))
        compute.experts_down(results[-1], stack, inputs, routes, n_rows)
    np.testing.assert_array_equal(results[1], results[0])


@pytest.mark.parametrize("dtype", LONG)
def test_scales_of_cut_blocks_that_are_no_numbers_are_reported(
    compute: Compute, rng: np.random.Generator, dtype: ElementType
) -> None:
    rows = cut(
        dtype, stored(rng, dtype, 19, 768), 96, 544
    )  # the end of a block, one, and the beginning of one
    matrix = PackedMatrix(compute, dtype, 19, 448, 96)
    assert matrix.pack(0, rows)
    for at in (0, cut_row_bytes(dtype, 96, 256), cut_row_bytes(dtype, 96, 512)):
        is_whole = at == cut_row_bytes(dtype, 96, 256)
        damaged = rows.copy()
        scale = at + (208 if is_whole and dtype is ElementType.Q6K else 0)
        damaged[7, scale : scale + 2] = np.array([np.nan], "<f2").view(np.uint8)
        assert not matrix.pack(0, damaged)
