"""Layers with a window, or with states, store no more than they need, and what is computed is the same bits: on real
kernels."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dllama.dtypes import ElementType
from dllama.engine import Engine, EngineStats, Event, Finished, GenerationOptions, SamplingOptions, TextDelta
from dllama.engine.scoring import score
from dllama.model import CacheStorage, cache_bytes
from dllama.node import NodeSettings
from support.engine_talks import TOKENIZER, Clock
from support.local_cluster import GOLDENS, LocalCluster
from support.sequences import CachedSequence, Run, Steps, Want

SIZE = 8
"""Positions of a page. Windows are 12: they reach back to two pages before that of a row. States reach back to one."""

LENGTH = 96
MODELS = {"gemma3-two-kinds": (None, 12), "mistral-window": (12,), "qwen3-5": (None, 2)}
TEXT = np.random.default_rng(5).integers(1, 256, LENGTH).tolist()

Written = tuple[list[int], list[float | None]]
Asked = list[tuple[list[int], GenerationOptions]]


def cluster_of(
    name: str,
    n_window_pages: int,
    n_pages: int = 64,
    *,
    shares: Sequence[float] = (1,),
    cache_type: ElementType = ElementType.F32,
    max_rows: int = 16,
    node: NodeSettings | None = None,
) -> LocalCluster:
    return LocalCluster(
        GOLDENS / name,
        shares=shares,
        cache_type=cache_type,
        max_rows=max_rows,
        page_size=SIZE,
        n_pages=[n_window_pages if window else n_pages for window in MODELS[name]],
        node=node,
    )


# Steps

CASES = [
    ("gemma3-two-kinds", ElementType.F32),
    ("gemma3-two-kinds", ElementType.Q80),
    ("mistral-window", ElementType.F32),
    ("mistral-window", ElementType.F16),
    ("qwen3-5", ElementType.F32),
]


@pytest.mark.parametrize("shares", [(1,), (2, 1, 1)], ids=str)
@pytest.mark.parametrize(("name", "cache_type"), CASES, ids=str)
def test_any_chunks_in_the_fewest_pages_equal_the_whole(
    name: str, cache_type: ElementType, shares: Sequence[float]
) -> None:
    """Pages that the window has left are written over at once."""
    n_ranks = min(len(shares), 2 if name == "mistral-window" else 3)
    with cluster_of(name, 64, shares=shares[:n_ranks], cache_type=cache_type, max_rows=LENGTH) as large:
        steps = Steps(large)
        steps.step([Run(CachedSequence(), TEXT, Want.ALL)])
        whole = steps.whole_logits()
    with cluster_of(name, 5, shares=shares[:n_ranks], cache_type=cache_type) as small:

        @settings(max_examples=12, deadline=None)
        @given(chunks=st.lists(st.integers(1, 16), min_size=6, max_size=LENGTH))
        def check(chunks: list[int]) -> None:
            steps, sequence, start = Steps(small), CachedSequence(), 0
            for n in (*chunks, *[16] * LENGTH):
                part = TEXT[start : start + n]
                if part:
                    steps.step([Run(sequence, part, Want.ALL)])
                    np.testing.assert_array_equal(steps.whole_logits(), whole[start : start + n])
                start += n

        check()


def test_a_batch_in_the_fewest_pages_equals_its_sequences_alone() -> None:
    texts = [TEXT, TEXT[::-1], TEXT[7:60], TEXT[50:]]
    alone = []
    with cluster_of("gemma3-two-kinds", 64, max_rows=LENGTH) as large:
        for text in texts:
            steps = Steps(large)
            steps.step([Run(CachedSequence(), text, Want.ALL)])
            alone.append(steps.whole_logits())
    with cluster_of("gemma3-two-kinds", 4 * 4, max_rows=24) as small:
        steps, sequences = Steps(small), [CachedSequence() for _ in texts]
        while any(len(s.token_ids) < len(text) for s, text in zip(sequences, texts, strict=True)):
            sizes = [1 + (len(s.token_ids) + 3 * i) % 6 for i, s in enumerate(sequences)]
            runs, wanted = [], []
            for size, sequence, text, logits in zip(sizes, sequences, texts, alone, strict=True):
                start = len(sequence.token_ids)
                if start < len(text):
                    runs.append(Run(sequence, text[start : start + size], Want.ALL))
                    wanted.append(logits[start : start + size])
            steps.step(runs)
            np.testing.assert_array_equal(steps.whole_logits(), np.concatenate(wanted))


@pytest.mark.parametrize("name", MODELS)
def test_a_score_is_that_of_the_whole(name: str) -> None:
    """A text that is longer than the pages of its windows hold, and where all layers have one, than the cache."""
    with cluster_of(name, 64, max_rows=LENGTH) as large:
        (whole,) = score(large, TEXT)
    with cluster_of(name, 5) as small:
        parts = list(score(small, TEXT))
    assert np.concatenate([part.target_logits for part in parts]).tobytes() == whole.target_logits.tobytes()


def test_on_disk_as_in_memory(tmp_path: Path) -> None:
    """Layers of one file that have different numbers of pages."""
    results = []
    for storage in CacheStorage:
        node = NodeSettings(kv_storage=storage, kv_directory=tmp_path)
        with cluster_of("gemma3-two-kinds", 5, 12, node=node) as cluster:
            spans = cluster._memories[0].plan.shards.ranks[0]
            sizes = [path.stat().st_size for path in tmp_path.iterdir()]
            assert sizes == [cache_bytes(cluster.config, spans, cluster.cache)] * len(sizes)
            results.append(np.concatenate([part.target_logits for part in score(cluster, TEXT)]))
    assert results[0].tobytes() == results[1].tobytes()


# Engines


def drawn(seed: int, n_tokens: int, speculate: int = 0) -> GenerationOptions:
    """Of few words, so that texts repeat themselves and what is drafted is right now and then."""
    words = dict.fromkeys([10, 20, 30], 30.0) if speculate else {}
    return GenerationOptions(
        sampling=SamplingOptions(seed=seed, temperature=0.8, logit_bias=words),
        max_tokens=n_tokens,
        speculate=speculate,
        n_logprobs=1,
        ignore_eos=True,
    )


def written(engine: Engine, asked: Asked) -> tuple[list[Written], list[Finished], EngineStats]:
    events: list[list[Event]] = [[] for _ in asked]
    for (prompt, options), inbox in zip(asked, events, strict=True):
        engine.submit(prompt, options, inbox.append)
    while engine.has_work:
        engine.step()
    texts, ends = list[Written](), []
    for inbox in events:
        tokens = [token for event in inbox if isinstance(event, TextDelta) for token in event.tokens]
        texts.append(([token.token_id for token in tokens], [token.logprob for token in tokens]))
        assert isinstance(inbox[-1], Finished), inbox[-1]
        ends.append(inbox[-1])
    return texts, ends, engine.stats()


def engine_of(cluster: LocalCluster, n_parallel: int) -> Engine:
    return Engine(cluster, TOKENIZER, max_seq_len=LENGTH, n_parallel=n_parallel, clock=Clock())


def alone(name: str, asked: Asked, **more: Sequence[float]) -> list[Written]:
    """Each by an engine of its own, in a cache that holds all of it, without drafts."""
    texts = []
    with cluster_of(name, 64, **more) as large:  # type: ignore[arg-type]
        for prompt, options in asked:
            plain = dataclasses.replace(options, speculate=0)
            texts += written(engine_of(large, 1), [(prompt, plain)])[0]
    return texts


@pytest.mark.parametrize(
    ("name", "shares"),
    [
        ("gemma3-two-kinds", (1,)),
        ("gemma3-two-kinds", (2, 1, 1)),
        ("mistral-window", (1,)),
        ("qwen3-5", (1,)),
        ("qwen3-5", (2, 1, 1)),
    ],
    ids=str,
)
def test_preempted_texts_with_drafts_are_the_same(name: str, shares: Sequence[float]) -> None:
    """Five texts, four of which begin alike, in pages that are too few for three when they have grown; then the same
    again, with what is left of them in the cache."""
    asked = [(TEXT[:10] + [seed] * 2, drawn(seed, 60, 4 * (seed % 2))) for seed in range(1, 5)]
    asked.append((TEXT[::-1][:50], drawn(9, 30)))
    wanted = alone(name, asked, shares=shares)
    with cluster_of(name, 9, 20, shares=shares) as small:
        engine = engine_of(small, 4)
        for _ in range(2):
            texts, _, stats = written(engine, asked)
            assert texts == wanted
    assert stats.n_preemptions > 0
    assert stats.n_cached_tokens > 0
    assert stats.n_drafted > stats.n_drafted_right > 0 or name == "qwen3-5"  # whose states take no drafts
    assert stats.n_pages_used == 0


@pytest.mark.parametrize("name", ["gemma3-two-kinds", "mistral-window"])
def test_drafts_that_fail_at_page_borders_change_nothing(name: str) -> None:
    """A prompt of each length up to two pages: rows of drafts reach over every border there is."""
    asked = [([10, 20, 30] * 2 + TEXT[:n], drawn(n, 30, 6)) for n in range(2 * SIZE)]
    wanted = alone(name, asked)
    with cluster_of(name, 6) as small:
        engine = engine_of(small, 1)
        assert [written(engine, [one])[0][0] for one in asked] == wanted
        assert engine.stats().n_drafted > engine.stats().n_drafted_right > 0


@pytest.mark.parametrize("name", MODELS)
def test_the_next_turn_goes_on_where_the_last_one_ended(name: str) -> None:
    prompt = TEXT[:30]
    with cluster_of(name, 10) as small:
        engine = engine_of(small, 1)
        ((reply, _),), _, _ = written(engine, [(prompt, drawn(1, 30))])
        longer = [(prompt + reply + TEXT[:5], drawn(2, 20))]
        texts, (end,), _ = written(engine, longer)
        assert end.n_cached == len(prompt) + len(reply) - 1
        again = [(prompt + TEXT[40:60], drawn(3, 20))]  # another answer's place: where the prompt ended
        others, (end,), _ = written(engine, again)
        assert end.n_cached == len(prompt) // SIZE * SIZE
    assert texts + others == alone(name, longer + again)


def test_an_embedding_of_a_text_longer_than_the_cache() -> None:
    vectors = []
    for n_pages in (64, 5):
        with cluster_of("mistral-window", n_pages) as cluster:
            engine = engine_of(cluster, 1)
            engine.embed(TEXT, vectors.append)
            while engine.has_work:
                engine.step()
    assert vectors[0].tobytes() == vectors[1].tobytes()


@pytest.mark.parametrize("name", MODELS)
def test_a_text_that_is_cancelled_within_a_step_leaves_nothing_wrong(name: str) -> None:
    """Rows of it have been computed that nobody counts: what is kept of it is of fewer tokens."""
    first, second = TEXT[:20], TEXT[30:50]
    with cluster_of(name, 24) as small:
        engine, tokens = engine_of(small, 2), list[int]()

        def on_event(event: Event) -> None:
            if isinstance(event, TextDelta):
                tokens.extend(token.token_id for token in event.tokens)

        def end_the_other(event: Event) -> None:
            if len(tokens) == 7:
                engine.cancel(other)

        engine.submit(first, drawn(1, 40), end_the_other)
        other = engine.submit(second, drawn(2, 40), on_event)
        while engine.has_work:
            engine.step()
        asked = [(second + tokens + TEXT[:3], drawn(3, 10))]
        texts, (end,), _ = written(engine, asked)
        assert end.n_cached >= len(second + tokens) // SIZE * SIZE - SIZE
    assert texts == alone(name, asked)
