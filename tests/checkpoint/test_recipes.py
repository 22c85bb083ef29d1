"""Laws of recipes: a part equals the same part of the whole, and what is undone is as it was."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from dllama.bench.random_blocks import random_blocks
from dllama.checkpoint.recipes import (
    Recipe,
    Rows,
    as_type,
    fill,
    halves_to_pairs,
    pairs_to_halves,
    part,
    plus,
    stack,
    stored,
    transposed,
)
from dllama.dtypes import ElementType, cut_row_bytes, row_bytes
from dllama.errors import NumericalError
from dllama.kernels import oracle, quantize
from dllama.kernels.cut_blocks import decode_cut

F32, F16, BF16, Q40, Q80 = (
    ElementType.F32, ElementType.F16, ElementType.BF16, ElementType.Q40, ElementType.Q80,
)  # fmt: skip
N_ROWS, N_COLS, HEAD = 24, 96, 8


def matrix(dtype: ElementType = F32, n_rows: int = N_ROWS, n_cols: int = N_COLS, seed: int = 0) -> Recipe:
    values = np.random.default_rng(seed).standard_normal((n_rows, n_cols), np.float32)
    return stored(oracle.encode(dtype, values), n_cols, dtype, "model: tensor")


def whole(recipe: Recipe) -> np.ndarray:
    return np.array(recipe.take(range(recipe.n_rows), range(recipe.n_cols)))


def numbers(recipe: Recipe) -> np.ndarray:
    return oracle.decode(recipe.dtype, whole(recipe), recipe.n_cols)


RECIPES: dict[str, Callable[[], Recipe]] = {
    **{f"stored {dtype.label}": lambda dtype=dtype: matrix(dtype) for dtype in (F32, F16, BF16, Q40, Q80)},
    "part": lambda: part(matrix(Q80), range(3, 19)),
    "every second": lambda: part(matrix(F16), range(1, N_ROWS, 2)),
    "part of a part": lambda: part(part(matrix(), range(1, N_ROWS, 2)), range(2, 9)),
    "stack": lambda: stack([matrix(Q40, 7), matrix(Q40, 1, seed=1), matrix(Q40, 12, seed=2)]),
    "transposed": lambda: transposed(matrix(F16)),
    "pairs": lambda: halves_to_pairs(matrix(Q40), HEAD),
    "pairs of a part": lambda: halves_to_pairs(matrix(Q40), HEAD, HEAD // 2),
    "halves": lambda: pairs_to_halves(matrix(BF16), HEAD),
    "plus": lambda: plus(matrix(BF16), 1.0),
    "dequantised": lambda: as_type(matrix(Q40), F32),
    "quantised": lambda: as_type(matrix(BF16), Q80),
    "requantised": lambda: as_type(matrix(Q40), Q80),
    "all at once": lambda: as_type(
        transposed(as_type(stack([part(halves_to_pairs(matrix(Q80), HEAD), range(4, 20)), matrix(Q80)]), F32)), F16
    ),
}  # fmt: skip


def runs(n: int, step: int) -> list[range]:
    edges = sorted({0, step, n // 2 // step * step, n - step, n})
    return [range(a, b) for a in edges for b in edges if a < b]


@pytest.fixture(params=RECIPES)
def recipe(request: pytest.FixtureRequest) -> Recipe:
    return RECIPES[request.param]()


def test_a_part_equals_that_part_of_the_whole(recipe: Recipe) -> None:
    all_bytes = whole(recipe)
    for rows in runs(recipe.n_rows, 1):
        for cols in runs(recipe.n_cols, max(recipe.dtype.block, 1)):
            start, stop = row_bytes(recipe.dtype, cols.start), row_bytes(recipe.dtype, cols.stop)
            got = recipe.take(rows, cols)
            np.testing.assert_array_equal(got, all_bytes[rows.start : rows.stop, start:stop])


def test_rows_come_in_the_order_in_which_they_are_wanted(recipe: Recipe) -> None:
    wanted: list[Rows] = [
        np.array([5, 0, 5, recipe.n_rows - 1]),
        np.array([], np.int64),
        range(1, recipe.n_rows, 3),
    ]
    for rows in wanted:
        got = recipe.take(rows, range(recipe.n_cols))
        np.testing.assert_array_equal(got, whole(recipe)[np.asarray(rows, np.int64)])


def test_a_view_is_one_and_what_is_none_says_so(recipe: Recipe) -> None:
    taken = recipe.take(range(1, 3), range(recipe.n_cols))
    if recipe.is_view:
        assert taken.base is not None
        assert taken.flags.c_contiguous
    assert recipe.take(range(0), range(recipe.n_cols)).shape[0] == 0


def test_filling_equals_taking_and_converting(recipe: Recipe) -> None:
    for dtype in (F32, Q80):
        cols = range(recipe.n_cols // dtype.block * dtype.block)
        out = np.empty((recipe.n_rows, row_bytes(dtype, len(cols))), np.uint8)
        fill(out, dtype, recipe, range(recipe.n_rows), cols)
        values = np.ascontiguousarray(numbers(recipe)[:, : len(cols)])
        wanted = values.view(np.uint8)
        if dtype is recipe.dtype:
            wanted = whole(recipe)
        elif dtype is Q80:
            wanted = np.empty_like(out)
            assert quantize(wanted, Q80, values)
        np.testing.assert_array_equal(out, wanted)


@pytest.mark.parametrize("dtype", [F32, F16, Q40, Q80])
def test_halves_and_pairs_undo_each_other(dtype: ElementType) -> None:
    base = matrix(dtype)
    np.testing.assert_array_equal(whole(pairs_to_halves(halves_to_pairs(base, HEAD), HEAD)), whole(base))
    np.testing.assert_array_equal(whole(halves_to_pairs(pairs_to_halves(base, HEAD), HEAD)), whole(base))


def test_pairs_are_the_transposed_halves_of_each_head() -> None:
    base = matrix()
    by_head = numbers(base).reshape(N_ROWS // HEAD, 2, HEAD // 2, N_COLS)
    wanted = by_head.swapaxes(1, 2).reshape(N_ROWS, N_COLS)
    np.testing.assert_array_equal(numbers(halves_to_pairs(base, HEAD)), wanted)


def test_pairs_may_be_of_the_first_rows_of_each_head() -> None:
    base = matrix()
    by_head = numbers(base).reshape(N_ROWS // HEAD, HEAD, N_COLS).copy()
    by_head[:, :4] = by_head[:, [0, 2, 1, 3]]
    wanted = by_head.reshape(N_ROWS, N_COLS)
    np.testing.assert_array_equal(numbers(halves_to_pairs(base, HEAD, 4)), wanted)


@pytest.mark.parametrize("n_rotated", [None, 4])
@pytest.mark.parametrize("dtype", [F32, BF16])
def test_a_bias_is_in_the_order_of_the_rows(dtype: ElementType, n_rotated: int | None) -> None:
    column = matrix(dtype, n_cols=1)
    bias = transposed(column)
    assert bias.n_rows == 1
    wanted = numbers(halves_to_pairs(column, HEAD, n_rotated)).T
    np.testing.assert_array_equal(numbers(halves_to_pairs(bias, HEAD, n_rotated)), wanted)


def test_transposing_twice_is_nothing() -> None:
    base = matrix(BF16)
    np.testing.assert_array_equal(numbers(transposed(base)), numbers(base).T)
    np.testing.assert_array_equal(whole(transposed(transposed(base))), whole(base))


def test_a_stack_of_the_parts_is_the_whole() -> None:
    base = matrix(Q40)
    parts = [part(base, range(5)), part(base, range(5, 6)), part(base, range(6, N_ROWS))]
    np.testing.assert_array_equal(whole(stack(parts)), whole(base))
    assert stack([base]) is base


def test_the_parts_of_a_stack_are_what_was_stacked() -> None:
    first, second = matrix(Q80, 5), matrix(Q80, 8, seed=1)
    both = stack([first, second])
    np.testing.assert_array_equal(whole(part(both, range(5))), whole(first))
    np.testing.assert_array_equal(whole(part(both, range(5, 13))), whole(second))


def test_interleaved_rows_are_two_matrices() -> None:
    base = matrix(F16)
    np.testing.assert_array_equal(whole(part(base, range(1, N_ROWS, 2))), whole(base)[1::2])


def test_a_number_is_added_in_float32() -> None:
    base = matrix(BF16)
    assert plus(base, 1.0).dtype is F32
    np.testing.assert_array_equal(numbers(plus(base, 1.0)), numbers(base) + np.float32(1))
    np.testing.assert_array_equal(numbers(plus(plus(base, 1.0), 0.0)), numbers(plus(base, 1.0)))


def test_dequantised_is_exact_and_the_same_type_is_the_recipe_itself() -> None:
    base = matrix(Q40)
    np.testing.assert_array_equal(numbers(as_type(base, F32)), numbers(base))
    assert as_type(base, Q40) is base


@pytest.mark.parametrize("dtype", [ElementType.Q4K, ElementType.Q6K])
def test_columns_may_be_cut_within_blocks(dtype: ElementType) -> None:
    data = random_blocks(np.random.default_rng(0), dtype, N_ROWS * 3, 1.0).reshape(N_ROWS, -1)
    base = stored(data, 768, dtype, "model: tensor")
    recipes = (base, part(base, range(1, N_ROWS, 2)), stack([base, base]), halves_to_pairs(base, HEAD))
    cols = range(96, 544)
    for recipe in recipes:
        rows = range(2, recipe.n_rows)
        wanted = numbers(recipe)[2:, 96:544]
        taken = recipe.take(rows, cols)
        np.testing.assert_array_equal(decode_cut(dtype, taken, cols.start, cols.stop), wanted)
        filled = np.empty((len(rows), cut_row_bytes(dtype, cols.start, cols.stop)), np.uint8)
        fill(filled, dtype, recipe, rows, cols)
        np.testing.assert_array_equal(filled, taken)
        floats = as_type(recipe, F32).take(rows, cols)
        np.testing.assert_array_equal(floats.view(np.float32), wanted)
    scale = data.shape[1] - 2 if dtype is ElementType.Q6K else 2 * dtype.block_bytes
    data[3, scale : scale + 2] = 0xFF
    with pytest.raises(NumericalError, match="model: tensor: has NaN"):
        fill(filled, dtype, base, range(N_ROWS - len(filled), N_ROWS), range(96, 544))


@pytest.mark.parametrize("rows", [range(20), range(3, 17), range(9, 9)], ids=str)
def test_each_matrix_of_a_stack_has_an_importance_of_its_own(rows: range) -> None:
    rng = np.random.default_rng(3)
    values = rng.standard_normal((20, 64)).astype(np.float32)
    importance = np.exp(rng.standard_normal((5, 64))).astype(np.float32)
    base = stored(values.view(np.uint8), 64, ElementType.F32, "here")
    for cols in (range(64), range(32, 64)):
        out = np.empty((len(rows), row_bytes(ElementType.Q40, len(cols))), np.uint8)
        fill(out, ElementType.Q40, base, rows, cols, importance)
        for place, row in enumerate(rows):
            alone = np.empty((1, out.shape[1]), np.uint8)
            fill(alone, ElementType.Q40, base, range(row, row + 1), cols, importance[row // 4])
            np.testing.assert_array_equal(out[place], alone[0])


@pytest.mark.parametrize("dtype", [ElementType.Q4K, ElementType.Q6K], ids=str)
def test_what_is_quantised_for_a_rank_is_a_part_of_what_all_have(dtype: ElementType) -> None:
    """Columns are cut within blocks of 256."""
    rng = np.random.default_rng(4)
    values = rng.standard_normal((3, 768)).astype(np.float32)
    importance = np.exp(rng.standard_normal(768)).astype(np.float32)
    base = stored(values.view(np.uint8), 768, ElementType.F32, "here")
    whole = np.empty((3, row_bytes(dtype, 768)), np.uint8)
    fill(whole, dtype, base, range(3), range(768), importance)
    for cols in (range(32, 96), range(224, 544), range(256, 768)):
        out = np.empty((3, cut_row_bytes(dtype, cols.start, cols.stop)), np.uint8)
        fill(out, dtype, base, range(3), cols, importance)
        np.testing.assert_array_equal(out, stored(whole, 768, dtype, "there").take(range(3), cols))


def test_only_what_is_asked_for_is_read() -> None:
    asked: list[tuple[int, range]] = []
    base = matrix(Q40)

    def take(rows: Rows, cols: range) -> np.ndarray:
        asked.append((len(rows), cols))
        return base.take(rows, cols)

    spy = Recipe(base.n_rows, base.n_cols, base.dtype, base.where, base.stored_type, take)
    wide = as_type(halves_to_pairs(part(spy, range(8, 24)), HEAD), F32)
    got = oracle.decode(F32, wide.take(range(2, 5), range(40, 50)), 10)
    assert asked == [(3, range(32, 64))]  # the blocks in which columns 40 to 50 are, of three rows
    np.testing.assert_array_equal(got, numbers(wide)[2:5, 40:50])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_is_named(bad: float) -> None:
    values = np.ones((2, 32), np.float32)
    values[1, 3] = bad
    base = stored(values.view(np.uint8), 32, F32, "folder/model.safetensors: lm_head.weight")
    with pytest.raises(NumericalError, match=r"folder/model\.safetensors: lm_head\.weight: has NaN"):
        as_type(base, Q80).take(range(2), range(32))
    assert as_type(base, Q80).take(range(1), range(32)).shape == (1, 34)
