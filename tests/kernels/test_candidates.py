"""The largest logits and sums of exponentials against the oracle, for every instruction set of this machine."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from dllama.kernels import Compute, merge_candidates, oracle, supported_isas

from .checks import EPS, Float32, assert_within

VOCABULARIES = [1, 2, 31, 32, 33, 255, 1000, 8192, 8193, 20011]
TEMPERATURES = np.asarray([0, 1, 0.7, 1e-6, 5, 1e30], np.float32)


def run(
    compute: Compute, logits: Float32, n: int, temperature: Float32, first_id: int = 0
) -> tuple[NDArray[np.int32], Float32, NDArray[np.float64]]:
    n_rows = len(logits)
    ids, largest = np.full((n_rows, n), -7, np.int32), np.full((n_rows, n), -7, np.float32)
    sums = np.full((2, n_rows), -7.0)
    compute.top_candidates(ids, largest, sums, logits, temperature, first_id, n_rows)
    return ids, largest, sums


def assert_is_oracle(compute: Compute, logits: Float32, n: int) -> None:
    temperature = np.resize(TEMPERATURES, len(logits))
    ids, largest, sums = run(compute, logits, n, temperature, 5)
    places, values, wanted = oracle.top_candidates(logits, n, temperature)
    np.testing.assert_array_equal(ids, places + 5)
    np.testing.assert_array_equal(largest, values)
    np.testing.assert_array_equal(np.isnan(sums), np.isnan(wanted))
    # Weights: the difference and its product with log2(e) / temperature round, 2^y is within 2 ulp; then the sum of a
    # run of 1024. Below 2^-126 a weight is that or nothing.
    for index, (row, t) in enumerate(zip(logits, temperature, strict=True)):
        finite = row[np.isfinite(row)].astype(np.float64)
        for got, exact, scale in ((sums[0], wanted[0], 1.0), (sums[1], wanted[1], float(t))):
            if np.isnan(exact[index]):
                continue
            exponent = (finite - finite.max(initial=-np.inf)) / scale
            error = (np.exp(exponent) * (2 * np.abs(exponent) + 4 + 1024 / 8)).sum() * EPS
            assert_within(got[index : index + 1], exact[index : index + 1], error + len(row) * 2.0**-125)


@pytest.mark.parametrize("kind", ["spread", "narrow", "ties", "forbidden", "rising", "large"])
@pytest.mark.parametrize("vocab", VOCABULARIES)
def test_top_candidates(compute: Compute, rng: np.random.Generator, vocab: int, kind: str) -> None:
    logits = rng.normal(0, 3, (6, vocab)).astype(np.float32)
    if kind == "narrow":
        logits = (8 + logits * 1e-6).astype(np.float32)
    elif kind == "ties":
        logits = np.round(logits / 3)  # also 0 and -0, which are equal
    elif kind == "forbidden":
        logits[rng.random(logits.shape) < 0.99] = -np.inf
    elif kind == "rising":
        logits.sort(axis=1)
    elif kind == "large":
        logits *= np.float32(1e37)
    for n in sorted({1, min(7, vocab), min(256, vocab), vocab}):
        assert_is_oracle(compute, logits, n)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("place", [0, 40, 8191, 8192, 9000])
def test_what_is_no_number_spoils_its_row_alone(compute: Compute, bad: float, place: int) -> None:
    logits = np.random.default_rng(place).normal(0, 3, (3, 9001)).astype(np.float32)
    logits[1, place] = bad
    assert_is_oracle(compute, logits, 20)


def test_nothing_but_what_is_no_number(compute: Compute) -> None:
    logits = np.full((2, 100), np.nan, np.float32)
    logits[1] = -np.inf
    assert_is_oracle(compute, logits, 20)


@pytest.mark.parametrize("isa", supported_isas())
def test_threads_change_nothing(isa: str) -> None:
    logits = np.random.default_rng(3).normal(0, 3, (5, 40_000)).astype(np.float32)
    temperature = TEMPERATURES[:5]
    alone = run(Compute(1, isa), logits, 300, temperature)
    for n_threads in (2, 3):
        for got, wanted in zip(run(Compute(n_threads, isa), logits, 300, temperature), alone, strict=True):
            np.testing.assert_array_equal(got, wanted)


@given(data=st.data())
def test_merge_candidates(data: st.DataObject) -> None:
    """With ties, rows of nothing but NaN or minus infinity, and targets that one part has or none."""
    random = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    n_rows, temperature = data.draw(st.integers(0, 3)), random.choice(TEMPERATURES, 3)
    temperature = temperature[:n_rows]
    parts, first_id = [], 0
    for n_part in data.draw(st.lists(st.integers(1, 300), min_size=1, max_size=4)):
        logits = np.round(random.normal(0, 3, (n_rows, n_part)), data.draw(st.integers(0, 9))).astype(
            np.float32
        )
        logits[random.random(n_rows) < 0.1] = np.nan
        logits[random.random(n_rows) < 0.1] = -np.inf
        n_candidates = data.draw(st.integers(1, n_part))
        places, largest, sums = oracle.top_candidates(logits, n_candidates, temperature)
        target = np.where(random.random(n_rows) < 0.3, logits[:, 0], np.float32(np.nan))
        target = np.where(
            [np.isnan([part[3][row] for part in parts]).all() for row in range(n_rows)], target, np.nan
        )
        parts.append((places + np.int32(first_id), largest, sums, target.astype(np.float32)))
        first_id += n_part
    n = data.draw(st.integers(1, sum(part[0].shape[1] for part in parts)))
    got = (
        np.full((n_rows, n), -7, np.int32), np.full((n_rows, n), -7, np.float32),
        np.full((2, n_rows), -7.0), np.full(n_rows, -7, np.float32),
    )  # fmt: skip
    merge_candidates(*got, parts, temperature)
    ids, logits, log_sums, targets = oracle.merge_candidates(parts, temperature, n)
    np.testing.assert_array_equal(got[0], ids)
    np.testing.assert_array_equal(got[1], logits)
    np.testing.assert_array_equal(got[3], targets)
    # Exponents beyond double's range at temperature 1e-6 aside, a term rounds four times and the sum as often as there
    # are parts.
    np.testing.assert_allclose(
        got[2], log_sums, rtol=8 * np.finfo(np.float64).eps, atol=8 * np.finfo(np.float64).eps
    )
