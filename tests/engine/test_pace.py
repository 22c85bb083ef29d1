"""How many rows of a prompt may share a step, on machines with different laws of time."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from dllama.engine.pace import StepPace


def bound_by_arithmetic(n_rows: int) -> float:
    return 0.014 + 0.006 * n_rows


def bound_by_memory(n_rows: int) -> float:
    """Free up to 16 rows, then steep."""
    return 0.02 + 0.004 * max(0, n_rows - 16)


Law = Callable[[int], float]


@pytest.mark.parametrize("law", [bound_by_arithmetic, bound_by_memory])
@pytest.mark.parametrize("n_decode", [1, 4, 8])
def test_steps_with_prompts_stay_within_three_usual_ones(law: Law, n_decode: int) -> None:
    pace = StepPace(512)
    n_prompt_rows = n_mixed = n_late = 0
    for _ in range(300):
        n_prompt = pace.prompt_rows(n_decode)
        seconds = law(n_decode + n_prompt)
        pace.observe(n_decode, n_prompt, seconds)
        n_prompt_rows += n_prompt
        n_mixed += n_prompt > 0
        n_late += seconds > 3 * law(n_decode)
    assert n_late <= 1  # when rows that were free no longer are
    assert n_mixed >= 290
    best = next(n for n in range(512) if law(n_decode + n + 1) > 2 * law(n_decode))
    assert n_prompt_rows / n_mixed > 0.8 * best


@pytest.mark.parametrize("spread", [0.02, 0.15, 0.25])
def test_on_an_uneven_machine_as_few_steps_are_late(spread: float) -> None:
    """Times vary like a log-normal distribution; where they vary less, more rows go into a step."""
    random, pace = np.random.default_rng(1), StepPace(512)
    late, rows = [], []
    for _ in range(6000):
        n_prompt = pace.prompt_rows(4)
        seconds = bound_by_arithmetic(4 + n_prompt) * random.lognormal(0, spread)
        pace.observe(4, n_prompt, seconds)
        late.append(seconds > 3 * bound_by_arithmetic(4))
        rows.append(n_prompt)
    assert np.mean(late[1000:]) < 0.01
    assert np.mean(rows) > (9 if spread < 0.1 else 2)


def test_without_decoding_texts_a_prompt_gets_as_much_as_two_seconds_hold() -> None:
    pace = StepPace(512)
    assert pace.prompt_rows(0) == 64
    pace.observe(0, 64, 0.064)
    assert pace.prompt_rows(0) == 512
    for _ in range(30):  # a slower computer: 10 rows a second
        pace.observe(0, pace.prompt_rows(0), pace.prompt_rows(0) / 10)
    assert pace.prompt_rows(0) == 20
    for _ in range(30):  # one that hardly moves
        pace.observe(0, pace.prompt_rows(0), pace.prompt_rows(0) * 5.0)
    assert pace.prompt_rows(0) == 1


def test_what_is_not_known_is_measured_first() -> None:
    pace = StepPace(512)
    assert pace.prompt_rows(3) == 0
    pace.observe(3, 0, 0.02)
    assert pace.prompt_rows(3) == 4
    assert pace.prompt_rows(2) == 0


def test_prompts_go_on_however_dear_their_rows_are() -> None:
    pace = StepPace(512)
    pace.observe(1, 0, 0.01)
    for _ in range(20):
        pace.observe(1, pace.prompt_rows(1), 1.0)
    assert pace.prompt_rows(1) == 1


def test_one_held_up_step_changes_little() -> None:
    pace = StepPace(512)
    for _ in range(20):
        pace.observe(2, 0, 0.02)
    pace.observe(2, 0, 5.0)
    assert pace.decode_s(2) < 0.025


def test_sizes_that_were_not_measured_are_read_off_the_line() -> None:
    pace = StepPace(512)
    assert pace.decode_s(3) > 0
    pace.observe(1, 0, 0.02)
    assert pace.decode_s(1) == 0.02
    assert 0.02 < pace.decode_s(4) < 0.04
    pace.observe(5, 0, 0.04)
    assert pace.decode_s(3) == pytest.approx(0.03)
    assert pace.decode_s(9) == pytest.approx(0.06)
