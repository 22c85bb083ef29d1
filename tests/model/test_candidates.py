"""Candidates of any number of ranks are those of a full sort, and their sums those of the whole vocabulary."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from dllama.model import LogitEdits, LogitMasks, LogitRows
from dllama.model.candidates import edit_logits
from support.candidates import candidates_of


def asked(
    n_rows: int, n_candidates: int, temperature: float = 0.7, targets: list[int] | None = None
) -> LogitRows:
    return LogitRows(
        rows=np.arange(n_rows, dtype=np.int32),
        n_candidates=n_candidates,
        temperature=np.full(n_rows, temperature, np.float32),
        targets=np.asarray(targets or [-1] * n_rows, np.int32),
    )


def random_logits(data: st.DataObject, n_rows: int, vocab: int) -> NDArray[np.float32]:
    """Some with many ties, some with forbidden tokens, never a row without any token."""
    random = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    logits = random.normal(0, data.draw(st.sampled_from([0.1, 3, 1000])), (n_rows, vocab)).astype(np.float32)
    if data.draw(st.booleans()):
        logits = np.round(logits)
    logits[random.random((n_rows, vocab)) < data.draw(st.sampled_from([0, 0.2, 0.9]))] = -np.inf
    logits[np.arange(n_rows), random.integers(0, vocab, n_rows)] = 1
    return logits


def log_sum_exp(logits: NDArray[np.float32], temperature: float) -> NDArray[np.float64]:
    scaled = logits.astype(np.longdouble) / np.float32(temperature)
    largest = scaled.max(axis=1, keepdims=True)
    return (np.log(np.exp(scaled - largest).sum(axis=1)) + largest[:, 0]).astype(np.float64)


@given(data=st.data())
def test_the_first_of_a_full_sort(data: st.DataObject) -> None:
    n_rows, vocab = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 90))
    logits = random_logits(data, n_rows, vocab)
    cuts = sorted(data.draw(st.sets(st.integers(1, vocab - 1), max_size=4))) if vocab > 1 else []
    targets = data.draw(st.lists(st.integers(-1, vocab - 1), min_size=n_rows, max_size=n_rows))
    n_candidates = data.draw(st.integers(1, vocab + 3))
    got = candidates_of(logits, asked(n_rows, n_candidates, targets=targets), cuts)
    order = np.argsort(-logits, axis=1, kind="stable")[:, :n_candidates]
    np.testing.assert_array_equal(got.ids, order)
    np.testing.assert_array_equal(got.logits, np.take_along_axis(logits, order, axis=1))
    chosen = [np.nan if target < 0 else row[target] for row, target in zip(logits, targets, strict=True)]
    np.testing.assert_array_equal(got.target_logits, np.asarray(chosen, np.float32))
    # Weights are within 2 ulp of e^d, d = logit - largest or that over the temperature, which rounds twice: what weighs
    # anything has |d| < 88. Added up in runs of at most 64 terms a lane, here.
    tolerance = (2 * 88 + 4 + 64) * np.finfo(np.float32).eps
    np.testing.assert_allclose(got.log_sum_exp, log_sum_exp(logits, 1), rtol=1e-15, atol=tolerance)
    np.testing.assert_allclose(got.log_sum_exp_at_t, log_sum_exp(logits, 0.7), rtol=1e-15, atol=tolerance)


def test_greedy_rows_have_no_second_sum() -> None:
    got = candidates_of(np.ones((2, 5), np.float32), LogitRows.greedy(np.arange(2, dtype=np.int32)), [2])
    assert got.ids.tolist() == [[0], [0]]
    assert np.isnan(got.log_sum_exp_at_t).all()
    np.testing.assert_allclose(got.log_sum_exp, 1 + np.log(5), rtol=0, atol=4 * np.finfo(np.float32).eps)


def test_no_rows() -> None:
    got = candidates_of(np.empty((0, 9), np.float32), asked(0, 3), [4])
    assert got.ids.shape == got.logits.shape == (0, 3)
    assert len(got.log_sum_exp) == len(got.log_sum_exp_at_t) == len(got.target_logits) == 0


@pytest.mark.parametrize("place", [0, 4, 8])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_no_number_spoils_its_row_alone(value: float, place: int) -> None:
    logits = np.arange(18, dtype=np.float32).reshape(2, 9)
    logits[1, place] = value
    got = candidates_of(logits, asked(2, 3), [5])
    assert np.isfinite([got.log_sum_exp[0], got.log_sum_exp_at_t[0]]).all()
    assert np.isnan([got.log_sum_exp[1], got.log_sum_exp_at_t[1]]).all()
    assert got.ids[0].tolist() == [8, 7, 6]


def test_nothing_allowed() -> None:
    got = candidates_of(np.full((1, 9), -np.inf, np.float32), asked(1, 3), [5])
    assert got.log_sum_exp.tolist() == got.log_sum_exp_at_t.tolist() == [-np.inf]


@given(data=st.data())
def test_edits_and_masks_of_spans_are_those_of_the_whole(data: st.DataObject) -> None:
    n_rows, vocab = 3, data.draw(st.integers(1, 40))
    random = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    logits = random.normal(0, 3, (n_rows, vocab)).astype(np.float32)
    places = np.sort(random.choice(n_rows * vocab, min(7, vocab), replace=False)).astype(np.int32)
    allowed = random.integers(0, 2, (2, vocab), np.uint8)
    edits = LogitEdits(
        index=places // vocab,
        ids=places % vocab,
        scale=random.uniform(1, 2, len(places)).astype(np.float32),
        add=random.normal(0, 1, len(places)).astype(np.float32),
    )
    masks = LogitMasks(
        index=np.asarray([0, 2], np.int32), allowed=np.packbits(allowed, axis=1, bitorder="little")
    )
    wanted = LogitRows(
        rows=np.arange(n_rows, dtype=np.int32),
        n_candidates=1,
        temperature=np.zeros(n_rows, np.float32),
        targets=np.full(n_rows, -1, np.int32),
        edits=edits,
        masks=masks,
    )
    expected = logits.copy()
    for index, token_id, scale, add in zip(edits.index, edits.ids, edits.scale, edits.add, strict=True):
        old = expected[index, token_id]
        expected[index, token_id] = (old / scale if old > 0 else old * scale) + add
    expected[0, allowed[0] == 0] = expected[2, allowed[1] == 0] = -np.inf
    cut = data.draw(st.integers(0, vocab))
    parts = [logits[:, :cut].copy(), logits[:, cut:].copy()]
    edit_logits(parts[0], wanted, 0)
    edit_logits(parts[1], wanted, cut)
    np.testing.assert_array_equal(np.concatenate(parts, axis=1), expected)
