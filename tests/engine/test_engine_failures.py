"""A node that is lost between a step and what has to be fetched after it."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from dllama.engine import Engine, GenerationOptions, SamplingOptions
from dllama.errors import PeerLostError
from support.engine_talks import TOKENIZER, Clock, Flaky, Talk


@settings(deadline=None, max_examples=40)
@given(
    n_losses=st.integers(1, 9),
    n_pages=st.integers(6, 16),
    speculate=st.sampled_from([0, 3]),
    n_logprobs=st.sampled_from([None, 2]),
    stop=st.sampled_from([(), ("e",)]),
)
def test_a_lost_node_changes_no_text(
    n_losses: int, n_pages: int, speculate: int, n_logprobs: int | None, stop: tuple[str, ...]
) -> None:
    """A step that failed is taken again; texts, log-probabilities, embeddings and counts are those of a quiet day."""
    asked = [
        (
            [seed, 2, 3],
            GenerationOptions(
                sampling=SamplingOptions(temperature=1, topp=1, seed=seed),
                max_tokens=12,
                n_logprobs=n_logprobs,
                stop=stop,
                speculate=speculate,
                ignore_eos=True,
            ),
        )
        for seed in range(3)
    ]
    results = []
    for n in (0, n_losses):
        executor = Flaky(n, n_pages=n_pages, max_rows=16, max_logit_rows=16)
        engine = Engine(executor, TOKENIZER, max_seq_len=24, n_parallel=4, clock=Clock())
        talks = [Talk() for _ in asked]
        for talk, (prompt, options) in zip(talks, asked, strict=True):
            engine.submit(prompt, options, talk.events.append)
        vectors: list[object] = []
        engine.embed([9, 8, 7, 6, 5, 4, 3, 2, 1], vectors.append)
        n_lost = 0
        while engine.has_work:
            try:
                assert engine.step() is not None
            except PeerLostError:
                n_lost += 1
        assert executor.n_losses == 0
        assert n_lost == n
        results.append((talks, vectors, engine.stats()))
    (quiet, quiet_vectors, quiet_stats), (lost, lost_vectors, lost_stats) = results
    for one, other in zip(quiet, lost, strict=True):
        assert other.token_ids == one.token_ids
        assert other.text == one.text
        assert [token.top for token in other.tokens] == [token.top for token in one.tokens]
    np.testing.assert_array_equal(quiet_vectors, lost_vectors)
    assert lost_stats.n_prompt_tokens == quiet_stats.n_prompt_tokens
    assert lost_stats.n_completion_tokens == quiet_stats.n_completion_tokens
