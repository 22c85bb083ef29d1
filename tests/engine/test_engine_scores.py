"""Log-probabilities of prompts, and embeddings, beside texts that are being written."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from dllama.engine import Engine, TokenInfo
from dllama.errors import DllamaError
from support.engine_talks import TOKENIZER, VOCAB, Flaky, Talk, answer, answers, checksum, few_words, greedy
from support.fake_executor import FakeExecutor


@settings(deadline=None, max_examples=30)
@given(
    n_pages=st.integers(6, 16),
    max_rows=st.integers(2, 9),
    max_logit_rows=st.integers(2, 4),
    n_top=st.integers(0, 3),
)
def test_a_prompt_is_scored_as_the_logits_say(
    n_pages: int, max_rows: int, max_logit_rows: int, n_top: int
) -> None:
    """Whatever it shares steps with, and however often it gave its pages up."""
    executor = FakeExecutor(
        few_words, vocab_size=VOCAB, n_pages=n_pages, max_rows=max_rows, max_logit_rows=max_logit_rows
    )
    engine = Engine(executor, TOKENIZER, max_seq_len=24, n_parallel=3)
    prompt = [301, 305, 300, 7, 301, 302, 303, 9, 300, 300, 304]
    talk, results = Talk(), list[list[TokenInfo] | DllamaError]()
    engine.submit(prompt[:6], greedy(max_tokens=14, ignore_eos=True), talk.events.append)
    engine.score(prompt, n_top, results.append)
    while engine.has_work:
        assert engine.step() is not None
    (infos,) = results
    assert isinstance(infos, list)
    assert [info.token_id for info in infos] == prompt[1:]
    for place, info in enumerate(infos, start=1):
        logits = few_words(prompt[:place]).astype(np.float64)
        logprobs = logits - np.logaddexp.reduce(logits)
        assert info.logprob == pytest.approx(logprobs[prompt[place]], rel=1e-5)
        top = np.argsort(-logprobs, kind="stable")[:n_top]
        assert [token_id for token_id, _, _ in info.top] == top.tolist()
        assert [logprob for _, _, logprob in info.top] == pytest.approx(logprobs[top].tolist(), rel=1e-5)
    assert (
        talk.token_ids
        == answer(
            prompt[:6], greedy(max_tokens=14, ignore_eos=True), FakeExecutor(few_words, vocab_size=VOCAB)
        ).token_ids
    )


def test_an_embedding_is_the_mean_of_all_rows() -> None:
    executor = FakeExecutor(checksum, vocab_size=VOCAB)  # hidden states like tokens
    engine = Engine(executor, TOKENIZER, max_seq_len=32, n_parallel=2)
    answers(engine, [([1, 2, 3, 4, 5, 6, 7, 8, 9], greedy(max_tokens=2))])
    results: list[object] = []
    talk = Talk()
    engine.embed([1, 2, 3, 4, 5, 6, 7, 8, 9, 10], results.append)
    engine.submit([3, 1], greedy(max_tokens=4), talk.events.append)
    while engine.has_work:
        engine.step()
    (vector,) = results
    assert isinstance(vector, np.ndarray)
    assert vector.dtype == np.float32
    dim = executor.config.dim
    np.testing.assert_allclose(vector, np.full(dim, dim**-0.5), rtol=1e-6)
    assert talk.token_ids == answer([3, 1], greedy(max_tokens=4)).token_ids
    assert engine.stats().n_pages_used == 0


def test_an_embedding_that_gave_its_pages_up_counts_no_row_twice() -> None:
    """Hidden states differ from row to row, so that a row counted twice shows."""
    prompt = [7, 3, 9, 1, 4, 8, 2, 6, 5, 10, 11]
    vectors: list[NDArray[np.float32]] = []
    for n_pages in (32, 6):
        engine = Engine(Flaky(n_pages=n_pages, max_rows=2), TOKENIZER, max_seq_len=24, n_parallel=2)
        engine.submit([1, 2, 3], greedy(max_tokens=20, ignore_eos=True), lambda event: None)
        for _ in range(2):
            engine.step()
        engine.embed(prompt, lambda result: vectors.append(np.asarray(result)))
        while engine.has_work:
            engine.step()
    assert engine.stats().n_preemptions > 0
    np.testing.assert_array_equal(*vectors)
    expected = np.zeros_like(vectors[0])
    for place, token_id in enumerate(prompt):
        expected[token_id] += 1 + place
    np.testing.assert_allclose(vectors[0], expected / np.linalg.norm(expected), rtol=1e-6)
