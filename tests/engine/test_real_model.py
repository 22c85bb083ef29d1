"""The same laws on real weights and real kernels, on one rank and on several: what shares a step changes no text."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator

import numpy as np
import pytest

from dllama.dtypes import ElementType
from dllama.engine import Engine, EngineStats, Event, Finished, GenerationOptions, SamplingOptions, TextDelta
from dllama.tokenizer import load_tokenizer
from support.local_cluster import LocalCluster
from support.processes import DEMO_MODEL

TOKENIZER = load_tokenizer(DEMO_MODEL)
MAX_SEQ_LEN = 96
SYSTEM = "Once upon a time there was a little cat who lived in a small house near the sea. "
SHARES = [(1,), (2, 1, 1)]

Texts = list[tuple[list[int], str]]
Asked = list[tuple[str, GenerationOptions]]


@pytest.fixture(scope="module", params=SHARES, ids=str)
def cluster(request: pytest.FixtureRequest) -> Iterator[LocalCluster]:
    with LocalCluster(
        DEMO_MODEL, shares=request.param, weight_type=ElementType.Q40, wire=ElementType.Q80, max_rows=32
    ) as cluster:
        yield cluster


def engine_of(cluster: LocalCluster, n_parallel: int) -> Engine:
    return Engine(cluster, TOKENIZER, max_seq_len=MAX_SEQ_LEN, n_parallel=n_parallel)


def written(engine: Engine, asked: Asked) -> tuple[Texts, list[Finished], EngineStats]:
    events: list[list[Event]] = [[] for _ in asked]
    for (prompt, options), inbox in zip(asked, events, strict=True):
        engine.submit(TOKENIZER.encode(prompt, add_bos=True), options, inbox.append)
    while engine.has_work:
        engine.step()
    texts, ends = [], []
    for inbox in events:
        deltas = [event for event in inbox if isinstance(event, TextDelta)]
        token_ids = [token.token_id for delta in deltas for token in delta.tokens]
        texts.append((token_ids, "".join(delta.text for delta in deltas)))
        assert isinstance(inbox[-1], Finished), inbox[-1]
        ends.append(inbox[-1])
    return texts, ends, engine.stats()


def alone(cluster: LocalCluster, asked: Asked) -> Texts:
    """Each by an engine of its own, without guesses."""
    texts = []
    for prompt, options in asked:
        texts += written(engine_of(cluster, 1), [(prompt, dataclasses.replace(options, speculate=0))])[0]
    return texts


def drawn(seed: int, n_tokens: int = 24, speculate: int = 0, **sampling: float) -> GenerationOptions:
    options = {"temperature": 0.8, "topp": 0.9, **sampling}
    return GenerationOptions(
        sampling=SamplingOptions(seed=seed, **options),  # type: ignore[arg-type]
        max_tokens=n_tokens,
        speculate=speculate,
        ignore_eos=True,
    )


def test_together_equals_alone(cluster: LocalCluster) -> None:
    """With shared prefixes, penalties of some and guesses of others."""
    asked = [
        (SYSTEM + "One day", drawn(1)),
        (SYSTEM + "One day", drawn(2)),
        (SYSTEM + "The cat", drawn(3, speculate=4)),
        ("Hello", drawn(4, repetition_penalty=1.2, frequency_penalty=0.3)),
        ("A", drawn(5, temperature=0)),
    ]
    texts, ends, _ = written(engine_of(cluster, 4), asked)
    assert texts == alone(cluster, asked)
    assert sum(end.n_cached for end in ends) >= 16  # the beginning of SYSTEM, at least once


def test_preempted_texts_are_the_same() -> None:
    """Four texts grow to 80 tokens each in pages for 96."""
    asked = [(f"{name} was a", drawn(seed, 70)) for seed, name in enumerate(("Tom", "Lily", "Sam", "Anna"))]
    with LocalCluster(DEMO_MODEL, weight_type=ElementType.Q40, max_rows=32, n_pages=6) as small:
        texts, _, stats = written(engine_of(small, 4), asked)
    assert stats.n_preemptions > 0
    with LocalCluster(DEMO_MODEL, weight_type=ElementType.Q40, max_rows=32) as large:
        assert texts == alone(large, asked)


class SameStep:
    """A clock by which every step takes a second, so that a guess costs nothing."""

    def __init__(self) -> None:
        self._s = 0.0

    def __call__(self) -> float:
        self._s += 1.0
        return self._s


@pytest.mark.parametrize("temperature", [0, 0.8])
def test_guesses_change_nothing(cluster: LocalCluster, temperature: float) -> None:
    """A text of five words repeats itself soon."""
    words = dict.fromkeys(TOKENIZER.encode("the cat and the dog and"), 100.0)
    prompt = "the cat and the dog and the cat and the dog and the"
    options = drawn(7, 60, 6, temperature=temperature)
    options = dataclasses.replace(options, sampling=dataclasses.replace(options.sampling, logit_bias=words))
    engine = Engine(cluster, TOKENIZER, max_seq_len=MAX_SEQ_LEN, n_parallel=1, clock=SameStep())
    texts, _, stats = written(engine, [(prompt, options)])
    assert texts == alone(cluster, [(prompt, options)])
    assert stats.n_drafted_right > 0
    assert (
        stats.n_drafted > stats.n_drafted_right or temperature == 0
    )  # what is drawn may differ from a guess
    assert stats.n_steps < 60


def test_an_embedding_is_the_mean_of_normed_states(cluster: LocalCluster) -> None:
    """Computed in steps of 32 rows beside another text; near each other for texts that are alike."""
    texts = [SYSTEM * 3, SYSTEM * 3 + "The end.", "Two plus three is five."]
    vectors: dict[str, np.ndarray] = {}
    engine = Engine(cluster, TOKENIZER, max_seq_len=MAX_SEQ_LEN, n_parallel=2)
    engine.submit(TOKENIZER.encode("Hello"), drawn(1), lambda event: None)
    for text in texts:
        engine.embed(TOKENIZER.encode(text)[:90], functools.partial(vectors.__setitem__, text))  # type: ignore[arg-type]
    while engine.has_work:
        engine.step()
    for vector in vectors.values():
        assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-6)
    same, near, far = (vectors[text] for text in texts)
    assert same @ near > 0.95 > same @ far


def test_the_next_turn_is_the_same_whether_pages_were_found_or_not(cluster: LocalCluster) -> None:
    engine = Engine(cluster, TOKENIZER, max_seq_len=MAX_SEQ_LEN, n_parallel=1)
    prompt = TOKENIZER.encode(SYSTEM, add_bos=True)
    inbox: list[Event] = []
    engine.submit(prompt, drawn(1), inbox.append)
    while engine.has_work:
        engine.step()
    reply = [token.token_id for event in inbox if isinstance(event, TextDelta) for token in event.tokens]
    longer = [*prompt, *reply, *TOKENIZER.encode(" Then")]
    results = []
    for one in (engine, Engine(cluster, TOKENIZER, max_seq_len=MAX_SEQ_LEN, n_parallel=1)):
        inbox.clear()
        one.submit(longer, drawn(2), inbox.append)
        while one.has_work:
            one.step()
        end = inbox[-1]
        assert isinstance(end, Finished)
        ids = [token.token_id for event in inbox if isinstance(event, TextDelta) for token in event.tokens]
        results.append((ids, end.n_cached))
    assert results[0][0] == results[1][0]
    assert (results[0][1], results[1][1]) == (len(prompt) + len(reply) - 1, 0)
