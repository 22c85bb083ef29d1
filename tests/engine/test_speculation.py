"""Guesses: what they are, and when they are worth a row."""

from __future__ import annotations

import numpy as np

from dllama.engine.speculation import Speculator


def one_s_a_step(n_rows: int) -> float:
    """Memory-bound: rows are free."""
    return 1.0


def one_s_a_row(n_rows: int) -> float:
    """Bound by arithmetic: a guess costs as much as a token."""
    return float(n_rows)


def fed(token_ids: list[int], prompt: list[int] | None = None, longest: int = 8) -> Speculator:
    speculator = Speculator(prompt or [], longest)
    for token_id in token_ids:
        speculator.add(token_id)
    return speculator


def test_what_followed_before_is_guessed() -> None:
    prompt = list(range(100, 130))
    speculator = fed(prompt[5:12], prompt)
    assert speculator.rate > 0.5
    assert speculator.draft(1, 4, one_s_a_step) == (112, 113, 114, 115)
    assert speculator.draft(1, 2, one_s_a_step) == (112, 113)
    assert speculator.draft(1, 0, one_s_a_step) == ()
    assert len(speculator.draft(1, 20, one_s_a_step)) == 8


def test_a_circle_is_guessed_beyond_its_end() -> None:
    speculator = fed([7, 8, 9] * 8)
    assert speculator.draft(1, 7, one_s_a_step) == (7, 8, 9, 7, 8, 9, 7)


def test_nothing_is_guessed_of_what_never_was() -> None:
    speculator = fed(list(range(50)))
    assert speculator.rate == 0
    assert speculator.draft(1, 8, one_s_a_step) == ()


def test_the_latest_occurrence_counts_and_the_longer_one() -> None:
    speculator = fed([1, 2, 3, 50, 9, 2, 3, 60, 5, 5, 5, 5, 5, 5, 5, 5, 5, 1, 2, 3])
    assert speculator.draft(1, 1, one_s_a_step) == (50,)


def test_no_guesses_where_they_do_not_pay() -> None:
    speculator = fed([7, 8, 9] * 8)
    assert speculator.draft(1, 8, one_s_a_row) == ()
    assert speculator.draft(8, 8, lambda n_rows: 1.0 + 2.0 * n_rows) == ()


def test_the_number_of_guesses_follows_the_measured_cost() -> None:
    """The best number for a step of 1 + 0.15 k seconds, tried out over all k."""
    speculator = fed([7, 8, 9] * 3 + [1, 2, 3] + [7, 8, 9] * 2)
    rate = speculator.rate
    speeds = [sum(rate**i for i in range(k + 1)) / (1 + 0.15 * k) for k in range(9)]
    draft_ids = speculator.draft(1, 8, lambda n_rows: 1 + 0.15 * (n_rows - 1))
    assert 0 < len(draft_ids) == int(np.argmax(speeds)) < 8


def test_guesses_stop_when_they_turn_out_wrong_and_begin_again() -> None:
    speculator = fed([1, 2] * 10)
    assert speculator.draft(1, 8, one_s_a_step)
    random = np.random.default_rng(0)
    for token_id in random.integers(0, 3, 200).tolist():  # every pair was there before, and tells nothing
        speculator.add(token_id)
    assert speculator.rate < 0.6
    assert len(speculator.draft(1, 8, lambda n_rows: 1 + 0.5 * (n_rows - 1))) <= 1
    for token_id in [1, 2] * 10:
        speculator.add(token_id)
    assert len(speculator.draft(1, 8, one_s_a_step)) == 8
