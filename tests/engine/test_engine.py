"""Requests that share steps, on an executor that computes nothing: each is as if it were alone."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from dllama.engine import Engine, Event, Failed, Finished, GenerationOptions, PromptProgress, SamplingOptions
from dllama.errors import ContextFullError, NumericalError, UsageError
from support.engine_talks import (
    END,
    TOKENIZER,
    VOCAB,
    Asked,
    Clock,
    Talk,
    answer,
    answers,
    checksum,
    echo,
    few_words,
    greedy,
)
from support.fake_executor import FakeExecutor

# Alone and together


@st.composite
def requests(draw: st.DrawFn) -> Asked:
    prompt = draw(st.sampled_from([[], [1] * 4, [1] * 8 + [2, 3]])) + draw(
        st.lists(st.integers(300, 302), min_size=1, max_size=9)
    )
    sampling = SamplingOptions(
        temperature=draw(st.sampled_from([0, 0.5, 1.5])),
        topp=draw(st.sampled_from([0.5, 0.9, 1])),
        topk=draw(st.sampled_from([0, 3])),
        min_p=draw(st.sampled_from([0, 0.1])),
        repetition_penalty=draw(st.sampled_from([1, 1.2])),
        presence_penalty=draw(st.sampled_from([0, 0.5])),
        frequency_penalty=draw(st.sampled_from([0, 0.3])),
        logit_bias=draw(st.sampled_from([{}, {301: 2.0, 303: -100.0}])),
        seed=draw(st.integers(0, 3)),
    )
    return prompt, GenerationOptions(
        sampling=sampling,
        max_tokens=draw(st.sampled_from([0, 1, 7, None])),
        ignore_eos=draw(st.booleans()),
        stop=draw(st.sampled_from([(), ("e", "on th"), (" ",)])),
        n_logprobs=draw(st.sampled_from([None, 0, 2])),
        speculate=draw(st.sampled_from([0, 4])),
    )


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=60)
@given(
    asked=st.lists(requests(), min_size=1, max_size=6),
    n_pages=st.integers(8, 20),
    windows=st.sampled_from([(None,), (None, 5), (6,), (None, 1, 9)]),
    n_window_pages=st.integers(3, 12),
)
def test_together_with_few_pages_equals_alone(
    asked: list[Asked], n_pages: int, windows: tuple[int | None, ...], n_window_pages: int
) -> None:
    """In one batch with shared prefixes, guesses and preemptions each text is what it is alone without them."""
    make = functools.partial(FakeExecutor, few_words, vocab_size=VOCAB, windows=windows)
    executor = make(n_pages=n_pages, n_window_pages=n_window_pages)
    crowded = Engine(executor, TOKENIZER, max_seq_len=32, n_parallel=4)
    for talk, (prompt, options) in zip(answers(crowded, asked), asked, strict=True):
        plain = dataclasses.replace(options, speculate=0)
        alone = answer(prompt, plain, make(max_rows=64, max_logit_rows=64))
        assert talk.token_ids == alone.token_ids
        assert talk.text == alone.text
        if options.n_logprobs is not None:
            assert [(t.logprob, t.top) for t in talk.tokens] == [(t.logprob, t.top) for t in alone.tokens]
        assert dataclasses.replace(talk.end, n_cached=0) == alone.end
    stats = crowded.stats()
    assert (stats.n_pages_used, stats.n_running, stats.n_queued) == (0, 0, 0)
    assert stats.n_pages_cached + stats.n_pages_free == sum(g.n_pages for g in executor.cache.groups)


def test_rows_of_several_texts_are_one_step() -> None:
    executor = FakeExecutor(checksum, vocab_size=VOCAB)
    engine = Engine(executor, TOKENIZER, max_seq_len=16, n_parallel=3)
    answers(
        engine,
        [([5, 6, 7], greedy(max_tokens=3)), ([8, 9], greedy(max_tokens=3)), ([4], greedy(max_tokens=2))],
    )
    first, second = executor.steps[:2]
    assert first.n_rows == 6
    assert len(first.wanted.rows) == 3
    assert second.token_ids.tolist() == [checksum([4]), checksum([8, 9]), checksum([5, 6, 7])][::-1]
    assert second.positions.tolist() == [3, 2, 1]


def test_a_preempted_text_goes_on_as_if_nothing_had_been() -> None:
    executor = FakeExecutor(checksum, vocab_size=VOCAB, n_pages=5)
    engine = Engine(executor, TOKENIZER, max_seq_len=20, n_parallel=2)
    asked = [([1, 2, 3], greedy(max_tokens=14)), ([4, 5, 6], greedy(max_tokens=14))]
    talks = answers(engine, asked)
    assert engine.stats().n_preemptions > 0
    for talk, (prompt, options) in zip(talks, asked, strict=True):
        assert talk.token_ids == answer(prompt, options).token_ids
        assert talk.end.n_completion == 14


# Ends


def test_the_end_token_ends_the_text_and_is_not_shown() -> None:
    talk = answer([1], greedy(), FakeExecutor(lambda text: END if len(text) == 4 else 400, vocab_size=VOCAB))
    assert talk.token_ids == [400] * 3
    assert talk.end == Finished(reason="stop", n_prompt=1, n_cached=0, n_completion=4, end_id=END)


def test_an_ignored_end_token_is_one_like_any_other() -> None:
    executor = FakeExecutor(lambda text: END if len(text) == 4 else 400, vocab_size=VOCAB)
    talk = answer([1], greedy(ignore_eos=True, max_tokens=6), executor)
    assert talk.token_ids == [400, 400, 400, END, 400, 400]
    assert talk.end.reason == "length"
    assert TOKENIZER.decode([400] * 5) == talk.text


@pytest.mark.parametrize("max_tokens", [0, 1, 5])
def test_max_tokens(max_tokens: int) -> None:
    executor = FakeExecutor(checksum, vocab_size=VOCAB)
    talk = answer([1, 2, 3], greedy(max_tokens=max_tokens), executor)
    assert len(talk.token_ids) == talk.end.n_completion == max_tokens
    assert talk.end.reason == "length"
    assert executor.n_computed == 3 + max(0, max_tokens - 1)  # the last token needs no step


def test_a_full_context_ends_the_text() -> None:
    talk = answer([1, 2, 3], greedy(), max_seq_len=9)
    assert talk.end == Finished(reason="length", n_prompt=3, n_cached=0, n_completion=6)


def test_stop_strings_across_tokens() -> None:
    words = [token for word in ("Once", " upon", " a", " time") for token in TOKENIZER.encode(word)]
    executor = FakeExecutor(lambda text: words[(len(text) - 1) % len(words)], vocab_size=VOCAB)
    talk = answer([1], greedy(stop=("n a t", "never")), executor)
    assert talk.text == "Once upo"
    assert talk.end.reason == "stop"
    assert talk.end.end_id is None


@pytest.mark.parametrize(
    ("options", "text", "end_id"),
    [
        ({}, "One day Two", None),
        ({"end_ids": frozenset({2045})}, "One day", 2045),
        ({"end_ids": frozenset({2045}), "ignore_eos": True}, "One day Two", None),
        ({"stop_ids": frozenset({2045}), "ignore_eos": True}, "One day", 2045),
        ({"stop": ("<|start_header_id|>",)}, "One day", None),
        ({"stop": ("day<|start_header_id|>",)}, "One ", None),
        ({"stop": ("<|start_header_id|>", "x"), "shown": frozenset({2045})}, "One day", None),
        ({"stop": ("day Two",)}, "One ", None),
    ],
)
def test_special_tokens_that_end_a_text(options: dict[str, Any], text: str, end_id: int | None) -> None:
    """Those that no setting of the tokenizer names: the template's, the request's by id and by name."""
    words = [*TOKENIZER.encode("One day"), 2045, *TOKENIZER.encode(" Two")]
    executor = FakeExecutor(lambda text: words[len(text) - 1], vocab_size=VOCAB)
    talk = answer([1], greedy(max_tokens=len(words), **options), executor)
    assert talk.text == text
    assert talk.end.end_id == end_id


def test_text_that_only_began_like_a_stop_string_is_shown_in_the_end() -> None:
    words = TOKENIZER.encode("Once upon")
    executor = FakeExecutor(lambda text: words[len(text) - 1], vocab_size=VOCAB)
    talk = answer([1], greedy(stop=("upon a time",), max_tokens=len(words)), executor)
    assert talk.text == "Once upon"


# What cannot be


def test_requests_that_cannot_be() -> None:
    engine = Engine(FakeExecutor(checksum, vocab_size=VOCAB), TOKENIZER, max_seq_len=8)
    with pytest.raises(ContextFullError, match="8 tokens and the context 8"):
        engine.check([1] * 8, greedy())
    engine.check([1] * 8, greedy(max_tokens=0))
    for prompt in ([], [VOCAB], [-1]):
        with pytest.raises(UsageError):
            engine.check(prompt, greedy())
    biased = GenerationOptions(sampling=SamplingOptions(logit_bias={VOCAB: 1.0}))
    with pytest.raises(UsageError, match=f"token {VOCAB}"):
        engine.check([1], biased)
    for options in ({"max_tokens": -1}, {"n_logprobs": -1}, {"speculate": -1}, {"stop": ("a", "")}):
        with pytest.raises(UsageError, match=next(iter(options))):
            GenerationOptions(**options)  # type: ignore[arg-type]


def test_logits_that_are_no_numbers_end_one_request() -> None:
    def answers_nan(text: list[int]) -> NDArray[np.float32]:
        return np.full(VOCAB, np.nan if text[0] == 1 else 0, np.float32)

    engine = Engine(FakeExecutor(answers_nan, vocab_size=VOCAB), TOKENIZER, max_seq_len=16, n_parallel=2)
    bad, good = answers(engine, [([1, 1], greedy(max_tokens=3)), ([2, 2], greedy(max_tokens=3))])
    (failed,) = bad.events
    assert isinstance(failed, Failed)
    assert isinstance(failed.error, NumericalError)
    assert len(good.token_ids) == 3
    assert engine.stats().n_pages_used == 0


def test_whoever_cannot_take_events_ends_alone() -> None:
    def refuse(event: Event) -> None:
        raise RuntimeError("gone")

    engine = Engine(FakeExecutor(checksum, vocab_size=VOCAB), TOKENIZER, max_seq_len=16, n_parallel=2)
    engine.submit([1, 2], greedy(max_tokens=5), refuse)
    (talk,) = answers(engine, [([3, 4], greedy(max_tokens=5))])
    assert len(talk.token_ids) == 5


def test_cancelled_requests_free_everything_and_say_nothing_more() -> None:
    engine = Engine(FakeExecutor(checksum, vocab_size=VOCAB), TOKENIZER, max_seq_len=16, n_parallel=1)
    running, waiting = Talk(), Talk()
    requests = [engine.submit([1, 2, 3], greedy(), talk.events.append) for talk in (running, waiting)]
    engine.step()
    n_events = len(running.events)
    for request in (*requests, *requests):
        engine.cancel(request)
    assert not engine.has_work
    assert engine.step() is None
    assert len(running.events) == n_events
    assert waiting.events == []
    assert engine.stats().n_pages_used == 0


# Prefixes


def test_the_next_turn_computes_only_what_is_new() -> None:
    executor = FakeExecutor(checksum, vocab_size=VOCAB)
    engine = Engine(executor, TOKENIZER, max_seq_len=32)
    (first,) = answers(engine, [([1, 2, 3, 4, 5], greedy(max_tokens=6))])
    n_before = executor.n_computed
    prompt = [1, 2, 3, 4, 5, *first.token_ids, 7, 8]
    (second,) = answers(engine, [(prompt, greedy(max_tokens=1))])
    assert second.end.n_cached == 10  # the reply's last token was never computed
    assert executor.n_computed - n_before == 3
    assert engine.stats().n_cached_tokens == 10
    assert engine.stats().n_prompt_tokens == 5 + len(prompt)


def test_requests_with_the_same_prompt_compute_it_once() -> None:
    executor = FakeExecutor(few_words, vocab_size=VOCAB, n_pages=32)
    engine = Engine(executor, TOKENIZER, max_seq_len=32, n_parallel=4)
    prompt = [300 + n % 7 for n in range(17)]
    sampling = [SamplingOptions(temperature=1, seed=seed) for seed in range(4)]
    talks = answers(engine, [(prompt, GenerationOptions(sampling=one, max_tokens=1)) for one in sampling])
    assert executor.n_computed == 17 + 3  # each needs the row of the last token
    assert [talk.end.n_cached for talk in talks] == [0, 16, 16, 16]


# Guesses


def test_right_guesses_save_steps() -> None:
    talks, n_steps = [], []
    for speculate in (0, 3):
        executor = FakeExecutor(echo, vocab_size=VOCAB, n_pages=32)
        engine = Engine(executor, TOKENIZER, max_seq_len=100, speculate=speculate, clock=Clock())
        talks += answers(engine, [([1, 2], greedy(max_tokens=80))])
        n_steps.append(len(executor.steps))
    assert talks[0].token_ids == talks[1].token_ids
    assert n_steps[0] == 80
    assert n_steps[1] < 40
    assert engine.stats().n_drafted_right > 40


def test_a_long_prompt_tells_how_far_it_is() -> None:
    """After each step of it but the last, and only where somebody asks."""
    talk = answer([1] * 20, greedy(max_tokens=2, progress=True))
    assert talk.events[:2] == [PromptProgress(8, 20), PromptProgress(16, 20)]
    assert not any(isinstance(event, PromptProgress) for event in talk.events[2:])
    assert not any(isinstance(e, PromptProgress) for e in answer([1] * 20, greedy(max_tokens=2)).events)
