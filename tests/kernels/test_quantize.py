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
    ElementType.Q4K: GGMLQuantizationType.Q4_K,
    ElementType.Q6K: GGMLQuantizationType.Q6_K,
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
    if dtype is ElementType.Q4K:
        return _q4k_to_nearest(x.reshape(-1, 8, 32)).reshape(x.shape)
    if dtype is ElementType.Q6K:
        return _q6k_to_nearest(x.reshape(-1, 16, 16)).reshape(x.shape)
    blocks = x.reshape(-1, 32)
    largest = _largest(blocks)
    if dtype is ElementType.Q80:
        largest = -np.abs(largest)
    scale = _half(largest / LEVELS[dtype][0])
    level = LEVELS[dtype][np.abs(_quotient(blocks, scale)[..., None] - LEVELS[dtype]).argmin(axis=-1)]
    return (scale * level).reshape(x.shape)


def _q6k_to_nearest(runs: Floats) -> Floats:
    """Of [n, 16, 16]: the scales of runs are whole numbers of one unit."""
    scale = _largest(runs) / np.float32(-32)  # [n, 16, 1]
    unit = _half(_largest(scale.swapaxes(1, 2)) / np.float32(-128))
    scale = unit * np.round(_quotient(scale, unit)).clip(-128, 127)
    return scale * np.round(_quotient(runs, scale)).clip(-32, 31)


def _q4k_to_nearest(runs: Floats) -> Floats:
    """Of [n, 8, 32]: so are the minima, of another unit."""
    least = np.minimum(runs.min(axis=-1, keepdims=True), 0)
    scale, minimum = (runs.max(axis=-1, keepdims=True).clip(min=least) - least) / np.float32(15), -least
    unit, unit_of_minimum = (
        _half(each.max(axis=1, keepdims=True) / np.float32(63)) for each in (scale, minimum)
    )
    scale = unit * np.round(_quotient(scale, unit)).clip(0, 63)
    minimum = unit_of_minimum * np.round(_quotient(minimum, unit_of_minimum)).clip(0, 63)
    return scale * np.round(_quotient(runs + minimum, scale)).clip(0, 15) - minimum


def _largest(blocks: Floats) -> Floats:
    """With its sign, along the last axis."""
    return np.take_along_axis(blocks, np.abs(blocks).argmax(axis=-1)[..., None], axis=-1)


def _half(values: Floats) -> Floats:
    return values.astype(np.float16).astype(np.float32)


def _quotient(a: Floats, b: Floats) -> Floats:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.nan_to_num(a / b)


def errors(dtype: ElementType, x: Floats, values: Floats, importance: Floats | None) -> NDArray[np.float64]:
    """Of each block."""
    squares = (x.astype(np.float64) - values) ** 2 * (1.0 if importance is None else importance.astype(float))
    return squares.reshape(-1, dtype.block).sum(axis=1)


def weights(rng: np.random.Generator, kind: str) -> Floats:
    x = rng.standard_normal((4, 256))
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
    ours = errors(dtype, x, decoded(dtype, quantized(dtype, x, importance)), importance)
    plain = errors(dtype, x, rounded_to_nearest(dtype, x), importance)
    # The search compares errors in float32: a sum of as many as a block has, and a few roundings of each; and what is
    # lost of a weight is a difference of numbers like the weight, which have an ulp each.
    eps = float(np.finfo(np.float32).eps)
    ulps = (2 * eps * np.abs(x).max()) ** 2 * dtype.block * (1 if importance is None else importance.max())
    of_cross_terms = 2 * np.sqrt(plain * ulps)
    assert (ours <= plain * (1 + (dtype.block + 8) * eps) + of_cross_terms + ulps).all()


@pytest.mark.parametrize("dtype", TYPES)
def test_the_search_gains(dtype: ElementType, rng: np.random.Generator) -> None:
    """As much as one sees: a tenth of the error of normal weights, and what counts more is lost less."""
    x = rng.standard_normal((64, 256)).astype(np.float32)
    importance = np.exp(rng.standard_normal(256)).astype(np.float32)
    plain = rounded_to_nearest(dtype, x)
    unweighted, weighted = (decoded(dtype, quantized(dtype, x, weight)) for weight in (None, importance))
    assert errors(dtype, x, unweighted, None).sum() < 0.9 * errors(dtype, x, plain, None).sum()
    assert (
        errors(dtype, x, weighted, importance).sum() < 0.95 * errors(dtype, x, unweighted, importance).sum()
    )


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


@pytest.mark.parametrize("dtype", LEVELS)
def test_what_blocks_can_hold_is_kept(dtype: ElementType, rng: np.random.Generator) -> None:
    scale = rng.choice([-1, 1], 64) * 2.0 ** rng.integers(-10, 5, 64)
    levels = rng.choice(LEVELS[dtype], (64, 32))
    levels[:, 0] = LEVELS[dtype][0]
    x = (levels * scale[:, None]).astype(np.float32)
    np.testing.assert_array_equal(decoded(dtype, quantized(dtype, x)), x)


@pytest.mark.parametrize("dtype", TYPES)
def test_zeros_stay_zeros(dtype: ElementType) -> None:
    x, importance = np.zeros((1, 256), np.float32), np.ones(256, np.float32)
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
    for place in (0, 13, 31, 255):
        for importance in (None, np.ones(256, np.float32)):
            x = np.ones((2, 256), np.float32)
            x[1, place] = bad
            assert not quantize(np.empty((2, row_bytes(dtype, 256)), np.uint8), dtype, x, importance, isa)


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
