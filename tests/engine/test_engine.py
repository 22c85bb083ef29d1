"""Sequences, pages and steps, on an executor that computes nothing."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dllama.engine import (
    CachedSequence,
    Engine,
    PromptDone,
    Run,
    Sampler,
    SamplingOptions,
    TokenDone,
    Want,
    generate,
)
from dllama.engine.pages import PagePool
from dllama.errors import ContextFullError
from support.fake_executor import FakeExecutor

GREEDY = Sampler(SamplingOptions(temperature=0))


def plus_one(text: list[int]) -> int:
    return text[-1] + 1


def checksum(text: list[int]) -> int:
    """Depends on every token and its place, and on nothing else."""
    assert -1 not in text, text
    return sum(place * token for place, token in enumerate(text, start=1)) % 251


# Pages


def test_pages_are_handed_out_lowest_first_and_come_back() -> None:
    pool = PagePool(4)
    assert pool.take(3) == [0, 1, 2]
    pool.give_back([1, 2])
    assert pool.take(2) == [1, 2]
    assert pool.n_free == 1


def test_too_many_pages_takes_none() -> None:
    pool = PagePool(4)
    pool.take(2)
    with pytest.raises(ContextFullError, match="2 free pages and 3 are needed"):
        pool.take(3)
    assert pool.n_free == 2


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 5)), max_size=40))
def test_no_page_is_given_twice(moves: list[tuple[bool, int]]) -> None:
    pool = PagePool(12)
    held: list[int] = []
    for is_take, n in moves:
        if is_take and n <= pool.n_free:
            held += pool.take(n)
        elif not is_take:
            n_kept = max(len(held) - n, 0)
            pool.give_back(held[n_kept:])
            del held[n_kept:]
        assert len(set(held)) == len(held) == 12 - pool.n_free


# Steps


def test_runs_of_several_sequences_are_one_batch() -> None:
    executor = FakeExecutor(checksum)
    engine = Engine(executor, 32)
    first, second, third = CachedSequence(), CachedSequence(), CachedSequence()
    engine.step([Run(first, [5, 6, 7])])
    candidates = engine.step([Run(first, [8]), Run(second, [1, 2], Want.ALL), Run(third, [9], Want.NONE)])
    batch = executor.steps[-1]
    assert batch.token_ids.tolist() == [8, 1, 2, 9]
    assert batch.positions.tolist() == [3, 0, 1, 0]
    assert batch.sequence.tolist() == [0, 1, 1, 2]
    assert batch.wanted.rows.tolist() == [0, 1, 2]
    assert candidates.ids[:, 0].tolist() == [checksum([5, 6, 7, 8]), checksum([1]), checksum([1, 2])]
    assert first.token_ids == [5, 6, 7, 8]
    held = [page for sequence in (first, second, third) for page in sequence.pages]
    assert len(set(held)) == len(held)


@given(data=st.data())
def test_any_order_of_steps_keeps_texts_apart(data: st.DataObject) -> None:
    """Texts grow, shrink and end in any order, together or alone; each is computed as if it were alone."""
    executor = FakeExecutor(checksum, n_pages=10)
    engine = Engine(executor, 24)
    sequences = [CachedSequence() for _ in range(3)]
    for _ in range(data.draw(st.integers(1, 12))):
        if data.draw(st.booleans()):
            sequence = data.draw(st.sampled_from(sequences))
            engine.truncate(sequence, data.draw(st.integers(0, len(sequence.token_ids))))
        chosen = data.draw(st.lists(st.sampled_from(range(3)), min_size=1, max_size=3, unique=True))
        runs = [
            Run(sequences[n], data.draw(st.lists(st.integers(0, 99), min_size=1, max_size=2))) for n in chosen
        ]
        before = [list(sequence.token_ids) for sequence in sequences]
        try:
            candidates = engine.step(runs)
        except ContextFullError:
            assert [sequence.token_ids for sequence in sequences] == before
            continue
        wanted = [checksum(run.sequence.token_ids) for run in runs]
        assert candidates.ids[:, 0].tolist() == wanted


@pytest.mark.parametrize("n_tokens", [1, 4, 8, 9, 23])
@pytest.mark.parametrize("want", list(Want))
def test_append_takes_as_many_steps_as_buffers_need(want: Want, n_tokens: int) -> None:
    executor = FakeExecutor(checksum)
    engine, sequence = Engine(executor, 32), CachedSequence()
    ids = list(range(n_tokens))
    parts = list(engine.append(Run(sequence, ids, want)))
    size = executor.max_logit_rows if want is Want.ALL else executor.max_rows
    assert [n for n, _ in parts] == [len(ids[i : i + size]) for i in range(0, n_tokens, size)]
    got = [int(row) for _, candidates in parts for row in candidates.ids[:, 0]]
    ends = {Want.NONE: [], Want.LAST: [n_tokens], Want.ALL: range(1, n_tokens + 1)}[want]
    assert got == [checksum(ids[:end]) for end in ends]


def test_a_full_context() -> None:
    engine, sequence = Engine(FakeExecutor(plus_one), 6), CachedSequence()
    with pytest.raises(ContextFullError, match="7 tokens do not fit into a context of 6"):
        list(engine.append(Run(sequence, range(7))))
    assert sequence == CachedSequence()
    engine.step([Run(sequence, [1, 2, 3, 4, 5, 6])])
    with pytest.raises(ContextFullError, match="context of 6 tokens is full"):
        engine.step([Run(sequence, [7])])
    assert len(sequence.token_ids) == 6


def test_truncating_gives_pages_back() -> None:
    engine, sequence = Engine(FakeExecutor(plus_one, n_pages=2, page_size=4, max_rows=8), 8), CachedSequence()
    for n_left in (5, 4, 1, 0):
        engine.step([Run(sequence, [1] * (8 - len(sequence.token_ids)))])
        engine.truncate(sequence, n_left)
        assert len(sequence.token_ids) == n_left
        assert len(sequence.pages) == -(-n_left // 4)


# One text


def tokens(events: list[PromptDone | TokenDone]) -> list[int]:
    return [event.token_id for event in events if isinstance(event, TokenDone)]


def test_generation_stops_at_an_end_token() -> None:
    engine, sequence = Engine(FakeExecutor(plus_one), 32), CachedSequence()
    events = list(generate(engine, sequence, [1, 2, 3], GREEDY, n_tokens=20, end_ids=(6, 9)))
    assert tokens(events) == [4, 5, 6]
    assert [event.is_end for event in events[1:]] == [False, False, True]  # type: ignore[union-attr]
    assert sequence.token_ids == [1, 2, 3, 4, 5]  # the end token enters with the next step


def test_generation_stops_after_n_tokens() -> None:
    executor = FakeExecutor(plus_one)
    engine, sequence = Engine(executor, 32), CachedSequence()
    assert tokens(list(generate(engine, sequence, [1], GREEDY, n_tokens=4, end_ids=()))) == [2, 3, 4, 5]
    assert executor.n_computed == 4  # the last token needs no step


def test_no_tokens_is_only_the_prompt() -> None:
    engine, sequence = Engine(FakeExecutor(plus_one), 32), CachedSequence()
    assert list(map(type, generate(engine, sequence, [1, 2], GREEDY, n_tokens=0, end_ids=()))) == [PromptDone]
    assert sequence.token_ids == [1, 2]


def test_generation_stops_when_the_context_is_full() -> None:
    engine, sequence = Engine(FakeExecutor(plus_one), 6), CachedSequence()
    ids = tokens(list(generate(engine, sequence, [1, 2, 3], GREEDY, n_tokens=99, end_ids=())))
    assert ids == [4, 5, 6, 7]
    assert sequence.token_ids == [1, 2, 3, 4, 5, 6]


def test_each_token_follows_its_step_at_once() -> None:
    """The time between two events is the time of one step."""
    executor = FakeExecutor(plus_one)
    events = generate(Engine(executor, 32), CachedSequence(), range(10), GREEDY, n_tokens=3, end_ids=())
    seen = [(type(event), len(executor.steps)) for event in events]
    assert seen == [(PromptDone, 1), (PromptDone, 2), (TokenDone, 2), (TokenDone, 3), (TokenDone, 4)]


def test_all_logits_of_a_prompt() -> None:
    engine = Engine(FakeExecutor(checksum), 32)
    events = generate(
        engine, CachedSequence(), range(10), GREEDY, n_tokens=1, end_ids=(), all_prompt_logits=True
    )
    prompt = list(itertools.takewhile(lambda event: isinstance(event, PromptDone), events))
    logits = np.concatenate([event.logits for event in prompt])  # type: ignore[union-attr]
    assert np.argmax(logits, axis=1).tolist() == [checksum(list(range(n))) for n in range(1, 11)]
