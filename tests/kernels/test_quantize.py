"""Weights to blocks whose scales are searched. What blocks stand for is what the `gguf` package says."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from dllama.dtypes import ElementType, row_bytes
from dllama.kernels import quantize, supported_isas

TYPES = {
    ElementType.Q40: GGMLQuantizationType.Q4_0,
    ElementType.Q80: GGMLQuantizationType.Q8_0,
    ElementType.IQ4NL: GGMLQuantizationType.IQ4_NL,
}
IQ4_LEVELS = np.array([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.float32)
LEVELS = {
    ElementType.Q40: np.arange(-8, 8, dtype=np.float32),
    ElementType.Q80: np.arange(-127, 128, dtype=np.float32),
    ElementType.IQ4NL: IQ4_LEVELS,
}

Floats = NDArray[np.float32]


def quantized(
    dtype: ElementType, x: Floats, importance: Floats | None = None, isa: str | None = None
) -> NDArray[np.uint8]:
    out = np.full((len(x), row_bytes(dtype, x.shape[1])), 0xAA, np.uint8)
    assert quantize(out, dtype, x, importance, isa)
    return out


def decoded(dtype: ElementType, blocks: NDArray[np.uint8]) -> Floats:
    values: Floats = gguf.dequantize(blocks, TYPES[dtype]).astype(np.float32)
    return values


def rounded_to_nearest(dtype: ElementType, x: Floats) -> Floats:
    """Without a search: the scale takes the largest element to the level that is furthest out."""
    blocks = x.reshape(-1, 32)
    largest = np.take_along_axis(blocks, np.abs(blocks).argmax(axis=1)[:, None], axis=1)
    if dtype is ElementType.Q80:
        largest = -np.abs(largest)
    scale = (largest / LEVELS[dtype][0]).astype(np.float16).astype(np.float32)
    with np.errstate(divide="ignore", invalid="ignore"):
        wanted = np.nan_to_num(blocks / scale)
    level = LEVELS[dtype][np.abs(wanted[..., None] - LEVELS[dtype]).argmin(axis=-1)]
    return (scale * level).reshape(x.shape)


def errors(x: Floats, values: Floats, importance: Floats | None) -> NDArray[np.float64]:
    """Of each block."""
    squares = (x.astype(np.float64) - values) ** 2 * (1.0 if importance is None else importance.astype(float))
    return squares.reshape(-1, 32).sum(axis=1)


def weights(rng: np.random.Generator, kind: str) -> Floats:
    x = rng.standard_normal((4, 128))
    if kind == "outliers":
        x[rng.random(x.shape) < 0.05] *= 20
    elif kind == "one sided":
        x = np.abs(x)
    elif kind == "few values":
        x = np.round(x)
    elif kind == "sparse":
        x[rng.random(x.shape) < 0.9] = 0
    return x.astype(np.float32)


KINDS = ["normal", "outliers", "one sided", "few values", "sparse"]


@settings(deadline=None, max_examples=80)
@given(
    dtype=st.sampled_from(list(TYPES)),
    kind=st.sampled_from(KINDS),
    seed=st.integers(0, 10**6),
    exponent=st.integers(-7, 4),
    spread=st.sampled_from([None, 0.0, 1.0, 4.0]),
)
def test_no_block_loses_more_than_by_rounding_to_nearest(
    dtype: ElementType, kind: str, seed: int, exponent: int, spread: float | None
) -> None:
    rng = np.random.default_rng(seed)
    x = weights(rng, kind) * np.float32(10.0**exponent)
    importance = None
    if spread is not None:
        importance = np.exp(spread * rng.standard_normal(x.shape[1])).astype(np.float32)
        importance[rng.random(len(importance)) < 0.1] = 0
    ours = errors(x, decoded(dtype, quantized(dtype, x, importance)), importance)
    plain = errors(x, rounded_to_nearest(dtype, x), importance)
    # Errors are compared in float32: 32 sums and four roundings of each product, whose difference is all that is lost
    # of a weight of the largest magnitude.
    slack = 40 * np.finfo(np.float32).eps * plain
    of_products = (np.finfo(np.float32).eps * np.abs(x)) ** 2 * (1 if importance is None else importance)
    assert (ours <= plain + slack + 40 * of_products.reshape(-1, 32).sum(axis=1)).all()


@pytest.mark.parametrize("dtype", TYPES)
def test_the_search_gains(dtype: ElementType, rng: np.random.Generator) -> None:
    """As much as one sees: a tenth of the error of normal weights, and what counts more is lost less."""
    x = rng.standard_normal((64, 256)).astype(np.float32)
    importance = np.exp(rng.standard_normal(256)).astype(np.float32)
    plain = rounded_to_nearest(dtype, x)
    unweighted, weighted = (decoded(dtype, quantized(dtype, x, weight)) for weight in (None, importance))
    assert errors(x, unweighted, None).sum() < 0.9 * errors(x, plain, None).sum()
    assert errors(x, weighted, importance).sum() < 0.9 * errors(x, unweighted, importance).sum()


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("is_weighted", [False, True])
def test_all_instruction_sets_write_the_same_bits(
    dtype: ElementType, is_weighted: bool, rng: np.random.Generator
) -> None:
    x = np.concatenate([weights(rng, kind) for kind in KINDS])
    importance = rng.random(x.shape[1]).astype(np.float32) if is_weighted else None
    best = quantized(dtype, x, importance)
    for isa in supported_isas():
        np.testing.assert_array_equal(quantized(dtype, x, importance, isa), best)
    for row in range(len(x)):  # whatever stands beside it
        np.testing.assert_array_equal(quantized(dtype, x[row : row + 1], importance), best[row : row + 1])


@pytest.mark.parametrize("dtype", TYPES)
def test_what_blocks_can_hold_is_kept(dtype: ElementType, rng: np.random.Generator) -> None:
    scale = rng.choice([-1, 1], 64) * 2.0 ** rng.integers(-10, 5, 64)
    levels = rng.choice(LEVELS[dtype], (64, 32))
    levels[:, 0] = LEVELS[dtype][0]
    x = (levels * scale[:, None]).astype(np.float32)
    np.testing.assert_array_equal(decoded(dtype, quantized(dtype, x)), x)


@pytest.mark.parametrize("dtype", TYPES)
def test_zeros_stay_zeros(dtype: ElementType) -> None:
    x, importance = np.zeros((1, 64), np.float32), np.ones(64, np.float32)
    for weight in (None, importance, 0 * importance):
        np.testing.assert_array_equal(decoded(dtype, quantized(dtype, x, weight)), x)


@pytest.mark.parametrize("dtype", TYPES)
def test_nothing_is_important_means_all_is(dtype: ElementType, rng: np.random.Generator) -> None:
    x = weights(rng, "normal")
    no_importance = np.zeros(x.shape[1], np.float32)
    np.testing.assert_array_equal(quantized(dtype, x, no_importance), quantized(dtype, x))


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("isa", supported_isas())
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 3e38])
def test_what_is_no_number_or_too_large_is_refused(dtype: ElementType, isa: str, bad: float) -> None:
    for place in (0, 13, 31, 63):
        for importance in (None, np.ones(64, np.float32)):
            x = np.ones((2, 64), np.float32)
            x[1, place] = bad
            assert not quantize(np.empty((2, row_bytes(dtype, 64)), np.uint8), dtype, x, importance, isa)


def test_arguments_are_checked() -> None:
    x, out = np.ones((2, 64), np.float32), np.empty((2, 36), np.uint8)
    ones = np.ones(64, np.float32)
    for importance in (-ones, ones * np.nan, ones[:-1]):
        with pytest.raises(ValueError, match="importance"):
            quantize(out, ElementType.Q40, x, importance)
    with pytest.raises(ValueError, match="out"):
        quantize(out, ElementType.Q80, x)
    with pytest.raises(ValueError, match="out_type"):
        quantize(out, ElementType.F16, x)
    with pytest.raises(ValueError, match="whole blocks"):
        quantize(out, ElementType.Q40, np.ones((2, 40), np.float32))
    with pytest.raises(TypeError, match="x must be float32"):
        quantize(out, ElementType.Q40, x.astype(np.float64))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="isa"):
        quantize(out, ElementType.Q40, x, isa="abacus")
