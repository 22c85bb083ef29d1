"""What is drawn, against the exact probabilities of temperature, top-k, top-p and min-p, in this order."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from dllama.engine import Sampler, SamplingOptions
from dllama.errors import NumericalError, UsageError
from dllama.model import LogitRows
from support.candidates import candidates_of

N_DRAWS = 2000
NAN = float("nan")


def asked(sampler: Sampler, n_candidates: int) -> LogitRows:
    """What `sampler` asks for, for one row."""
    return LogitRows(
        rows=np.zeros(1, np.int32),
        n_candidates=n_candidates,
        temperature=np.asarray([sampler.temperature], np.float32),
        targets=np.asarray([-1], np.int32),
    )


def sample(
    sampler: Sampler,
    logits: NDArray[np.float32],
    n_candidates: int | None = None,
    cuts: Sequence[int] = (),
    index: int = 0,
) -> int:
    """A token drawn from `logits` [V], of which so many candidates are sent by ranks that are cut there."""
    whole, wanted = logits[np.newaxis], asked(sampler, n_candidates or sampler.n_candidates)
    return sampler.sample(index, candidates_of(whole, wanted, cuts), 0, lambda: whole)


def exact_probabilities(
    logits: NDArray[np.float32], temperature: float, topk: int, topp: float, min_p: float = 0.0
) -> NDArray[np.float64]:
    """[V]: written down from the definition, without any of the sampler's shortcuts."""
    scaled = logits.astype(np.float64) / temperature
    probabilities = np.exp(scaled - scaled.max())
    probabilities /= probabilities.sum()
    order = np.argsort(-probabilities, kind="stable")
    if topk:
        probabilities[order[topk:]] = 0
        probabilities /= probabilities.sum()
    if 0 < topp < 1:
        before = np.cumsum(probabilities[order]) - probabilities[order]
        probabilities[order[before >= topp]] = 0  # what comes when the nucleus is already full
        probabilities /= probabilities.sum()
    probabilities[probabilities < min_p * probabilities.max()] = 0
    return probabilities / probabilities.sum()


def drawn_counts(sampler: Sampler, logits: NDArray[np.float32], n_draws: int = N_DRAWS) -> NDArray[np.int64]:
    whole = logits[np.newaxis]
    candidates = candidates_of(whole, asked(sampler, sampler.n_candidates))
    drawn = [sampler.sample(index, candidates, 0, lambda: whole) for index in range(n_draws)]
    return np.bincount(drawn, minlength=len(logits))


def assert_drawn_from(counts: NDArray[np.int64], probabilities: NDArray[np.float64]) -> None:
    """Pearson's chi-square, cells of fewer than 5 expected draws put together; the bound is the mean plus five
    standard deviations of the chi-square distribution (the seeds are fixed, so this cannot turn by chance)."""
    assert not counts[probabilities == 0].any(), np.flatnonzero(counts * (probabilities == 0))
    expected = probabilities * counts.sum()
    rare = expected < 5
    observed = np.append(counts[~rare], counts[rare].sum())
    wanted = np.append(expected[~rare], expected[rare].sum())
    observed, wanted = observed[wanted > 0], wanted[wanted > 0]
    freedom = max(len(wanted) - 1, 1)
    chi_square = float(((observed - wanted) ** 2 / wanted).sum())
    assert chi_square <= freedom + 5 * (2 * freedom) ** 0.5, (chi_square, freedom)


@pytest.mark.parametrize("vocab", [5, 300, 2000])
@pytest.mark.parametrize(
    ("temperature", "topk", "topp", "min_p"),
    [
        (1, 0, 0, 0),
        (0.8, 0, 0.9, 0),
        (1.5, 0, 0.97, 0),
        (1, 3, 1, 0),
        (0.7, 40, 0.8, 0),
        (1, 10**6, 0.5, 0),
        (1, 1, 0.9, 0),
        (1, 0, 1e-6, 0),
        (1, 0, 1, 0.1),
        (2, 20, 0.9, 0.05),
        (1, 0, 1, 1),
    ],
)
def test_the_distribution(temperature: float, topk: int, topp: float, min_p: float, vocab: int) -> None:
    logits = np.random.default_rng(vocab).normal(0, 3, vocab).astype(np.float32)
    sampler = Sampler(SamplingOptions(temperature=temperature, topk=topk, topp=topp, min_p=min_p, seed=vocab))
    wanted = exact_probabilities(logits, temperature, topk, topp, min_p)
    assert_drawn_from(drawn_counts(sampler, logits), wanted)


@pytest.mark.parametrize("n_likely", [300, 5000])
def test_a_nucleus_beyond_the_first_candidates(n_likely: int) -> None:
    """Nearly flat logits: 0.9 of them all are in the nucleus, far more than the 256 candidates."""
    random = np.random.default_rng(n_likely)
    logits = np.full(6000, -30, np.float32)
    logits[random.permutation(6000)[:n_likely]] = random.normal(0, 0.1, n_likely)
    probabilities = exact_probabilities(logits, 1.0, 0, 0.9)
    sampler = Sampler(SamplingOptions(temperature=1.0, topp=0.9, seed=1))
    counts = drawn_counts(sampler, logits, 1000)
    nucleus = probabilities > 0
    assert nucleus.sum() > 200
    edge = np.argmin(np.where(nucleus, probabilities, 1))  # float32 may put the token there on either side
    assert not counts[(logits < logits[edge] - 1e-4) & ~nucleus].any()
    assert_drawn_from(counts[nucleus], probabilities[nucleus])


def test_all_alike() -> None:
    counts = drawn_counts(Sampler(SamplingOptions(temperature=1, topp=1, seed=3)), np.zeros(16, np.float32))
    assert_drawn_from(counts, np.full(16, 1 / 16))


@given(seed=st.integers(0, 1000), vocab=st.integers(1, 700))
def test_greedy_is_the_largest_logit(seed: int, vocab: int) -> None:
    logits = np.random.default_rng(seed).normal(size=vocab).astype(np.float32)
    sampler = Sampler(SamplingOptions(temperature=0, topk=3, topp=0.5))
    assert sample(sampler, logits) == int(np.argmax(logits))


def test_greedy_takes_the_first_of_equals() -> None:
    assert sample(Sampler(SamplingOptions(temperature=0)), np.array([1, 7, 7], np.float32)) == 1


def test_a_cold_draw_is_greedy() -> None:
    logits = np.array([1, 2, 3, 2.9], np.float32)
    sampler = Sampler(SamplingOptions(temperature=1e-6, topp=1))
    assert {sample(sampler, logits) for _ in range(50)} == {2}


@given(
    seed=st.integers(0, 2**32), topp=st.floats(0, 1), topk=st.integers(0, 400), temperature=st.floats(0, 5)
)
def test_the_same_seed_draws_the_same(seed: int, topp: float, topk: int, temperature: float) -> None:
    logits = np.random.default_rng(7).normal(0, 2, 300).astype(np.float32)
    options = SamplingOptions(temperature=temperature, topp=topp, topk=topk, seed=seed)
    first, second = Sampler(options), Sampler(options)
    assert [sample(first, logits) for _ in range(10)] == [sample(second, logits) for _ in range(10)]


def test_other_seeds_draw_other_tokens() -> None:
    logits = np.zeros(1000, np.float32)
    drawn = [sample(Sampler(SamplingOptions(temperature=1, topp=1, seed=seed)), logits) for seed in range(20)]
    assert len(set(drawn)) > 10


@pytest.mark.parametrize("temperature", [0, 1])
@pytest.mark.parametrize("place", [0, 3, -1])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_logits_that_are_no_numbers(value: float, place: int, temperature: float) -> None:
    logits = np.arange(8, dtype=np.float32)
    logits[place] = value
    with pytest.raises(NumericalError, match="NaN or infinity"):
        sample(Sampler(SamplingOptions(temperature=temperature, seed=1)), logits)


def test_forbidden_tokens_are_never_drawn() -> None:
    logits = np.full(300, -np.inf, np.float32)
    logits[[5, 250]] = 1.0
    counts = drawn_counts(Sampler(SamplingOptions(temperature=1, topp=0.95, seed=2)), logits, 200)
    assert set(np.flatnonzero(counts)) == {5, 250}
    with pytest.raises(NumericalError):
        sample(Sampler(SamplingOptions()), np.full(5, -np.inf, np.float32))


@given(data=st.data())
def test_neither_the_number_of_candidates_nor_of_ranks_changes_what_is_drawn(data: st.DataObject) -> None:
    """Logits with ties, forbidden tokens and any cut; drawn in the end from the whole, or from what was sent."""
    vocab = data.draw(st.integers(1, 400))
    random = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    logits = random.normal(0, data.draw(st.sampled_from([0.01, 1, 5])), vocab).astype(np.float32)
    if data.draw(st.booleans()):
        logits = np.round(logits)
    logits[random.random(vocab) < data.draw(st.sampled_from([0, 0.5]))] = -np.inf
    logits[random.integers(vocab)] = 1
    options = SamplingOptions(
        temperature=data.draw(st.sampled_from([0, 1e-3, 0.7, 1, 2])),
        topp=data.draw(st.sampled_from([0, 0.3, 0.9, 0.999])),
        topk=data.draw(st.sampled_from([0, 1, 7, 399, 10**6])),
        min_p=data.draw(st.sampled_from([0, 0.01, 0.5])),
        seed=data.draw(st.integers(0, 2**32)),
    )
    cuts = sorted(data.draw(st.sets(st.integers(1, vocab - 1), max_size=4))) if vocab > 1 else []
    from_whole, from_some = Sampler(options), Sampler(options)
    for _ in range(4):
        n_candidates = data.draw(st.integers(1, vocab))
        assert sample(from_some, logits, n_candidates, cuts) == sample(from_whole, logits, vocab)


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": -0.1},
        {"temperature": float("nan")},
        {"topp": 1.1},
        {"topp": -1},
        {"topp": float("nan")},
        {"topk": -1},
        {"min_p": 1.5},
    ],
)
def test_options_that_cannot_be(options: dict[str, float]) -> None:
    with pytest.raises(UsageError, match=next(iter(options))):
        SamplingOptions(**options)  # type: ignore[arg-type]
