"""Requests that share steps, on an executor that computes nothing: each is as if it were alone."""

from __future__ import annotations

import dataclasses
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from dllama.engine import (
    Engine,
    Event,
    Failed,
    Finished,
    GenerationOptions,
    PromptProgress,
    SamplingOptions,
    TextDelta,
    TokenInfo,
)
from dllama.errors import ContextFullError, DllamaError, NumericalError, PeerLostError, UsageError
from dllama.tokenizer import Tokenizer, load_tokenizer
from support.fake_executor import FakeExecutor
from support.processes import DEMO_MODEL
from support.slow_grammar import SlowGrammar

TOKENIZER: Tokenizer = load_tokenizer(DEMO_MODEL)
VOCAB = TOKENIZER.vocab_size
END = TOKENIZER.eos_ids[0]
GREEDY = SamplingOptions(temperature=0)


def checksum(text: list[int]) -> int:
    """Depends on every token and its place, and on nothing else."""
    assert -1 not in text, text
    return sum(place * token for place, token in enumerate(text, start=1)) % 251


def few_words(text: list[int]) -> NDArray[np.float32]:
    """Logits that depend on every token; a few tokens are far more likely than the rest, so that texts repeat."""
    assert -1 not in text, text
    random = np.random.default_rng(zlib.crc32(np.asarray(text, np.int32).tobytes()))
    logits = random.normal(0, 1, VOCAB).astype(np.float32)
    logits[300:306] += random.normal(9, 2, 6).astype(np.float32)
    logits[END] = random.normal(6, 2)
    return logits


def echo(text: list[int]) -> int:
    """The text goes round in a circle of five."""
    return text[-5] if len(text) > 5 else 500 + len(text)


class Talk:
    """What one request got."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    @property
    def tokens(self) -> list[TokenInfo]:
        return [token for event in self.events if isinstance(event, TextDelta) for token in event.tokens]

    @property
    def token_ids(self) -> list[int]:
        return [token.token_id for token in self.tokens]

    @property
    def text(self) -> str:
        return "".join(event.text for event in self.events if isinstance(event, TextDelta))

    @property
    def end(self) -> Finished:
        end = self.events[-1]
        assert isinstance(end, Finished), end
        assert not any(isinstance(event, Finished | Failed) for event in self.events[:-1])
        return end


Asked = tuple[list[int], GenerationOptions]


def answers(engine: Engine, asked: list[Asked]) -> list[Talk]:
    """All requests at once, to their ends."""
    talks = []
    for prompt, options in asked:
        engine.check(prompt, options)
        talks.append(Talk())
        engine.submit(prompt, options, talks[-1].events.append)
    while engine.has_work:
        assert engine.step() is not None
    return talks


def answer(
    prompt: list[int], options: GenerationOptions, executor: FakeExecutor | None = None, **more: int
) -> Talk:
    executor = executor or FakeExecutor(checksum, vocab_size=VOCAB)
    return answers(Engine(executor, TOKENIZER, **{"max_seq_len": 32, **more}), [(prompt, options)])[0]


def greedy(**options: object) -> GenerationOptions:
    return GenerationOptions(sampling=GREEDY, **options)  # type: ignore[arg-type]


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
@given(asked=st.lists(requests(), min_size=1, max_size=6), n_pages=st.integers(8, 20))
def test_together_with_few_pages_equals_alone(asked: list[Asked], n_pages: int) -> None:
    """In one batch with shared prefixes, guesses and preemptions each text is what it is alone without them."""
    crowded = Engine(
        FakeExecutor(few_words, vocab_size=VOCAB, n_pages=n_pages), TOKENIZER, max_seq_len=32, n_parallel=4
    )
    for talk, (prompt, options) in zip(answers(crowded, asked), asked, strict=True):
        plain = dataclasses.replace(options, speculate=0)
        alone = answer(
            prompt, plain, FakeExecutor(few_words, vocab_size=VOCAB, max_rows=64, max_logit_rows=64)
        )
        assert talk.token_ids == alone.token_ids
        assert talk.text == alone.text
        if options.n_logprobs is not None:
            assert [(t.logprob, t.top) for t in talk.tokens] == [(t.logprob, t.top) for t in alone.tokens]
        assert dataclasses.replace(talk.end, n_cached=0) == alone.end
    stats = crowded.stats()
    assert (stats.n_pages_used, stats.n_running, stats.n_queued) == (0, 0, 0)
    assert stats.n_pages_cached + stats.n_pages_free == n_pages


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


# A node that is lost between a step and what has to be fetched after it


class Flaky(FakeExecutor):
    """Hidden states tell tokens and places apart. `n_losses` times nothing can be fetched after a step."""

    def __init__(self, n_losses: int = 0, **shape: int) -> None:
        super().__init__(flat, vocab_size=VOCAB, **shape)
        self.n_losses = n_losses

    def whole_logits(self) -> NDArray[np.float32]:
        self._lose()
        return super().whole_logits()

    def hidden(self) -> NDArray[np.float32]:
        self._lose()
        batch, hidden = self.steps[-1], np.zeros((self.steps[-1].n_rows, self.config.dim), np.float32)
        hidden[np.arange(batch.n_rows), batch.token_ids % self.config.dim] = 1 + batch.positions
        return hidden

    def _lose(self) -> None:
        if self.n_losses:
            self.n_losses -= 1
            raise PeerLostError("a worker was lost")


def flat(text: list[int]) -> NDArray[np.float32]:
    """Logits that depend on every token and are so alike that a draw often needs more than the candidates."""
    assert -1 not in text, text
    random = np.random.default_rng(zlib.crc32(np.asarray(text, np.int32).tobytes()))
    logits = random.normal(0, 0.1, VOCAB).astype(np.float32)
    logits[text[-5] if len(text) > 5 else 300] += 7
    return logits


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


# Log-probabilities of prompts


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


class Clock:
    """Every step takes a second, however many rows it has."""

    def __init__(self) -> None:
        self._s = 0.0

    def __call__(self) -> float:
        self._s += 1.0
        return self._s


# Grammars


def test_a_slow_grammar_holds_up_its_own_text_only() -> None:
    grammar, woken = SlowGrammar(VOCAB, 2), []
    engine = Engine(
        FakeExecutor(checksum, vocab_size=VOCAB),
        TOKENIZER,
        max_seq_len=24,
        n_parallel=2,
    )
    slow, other = Talk(), Talk()
    engine.submit([1, 2], greedy(constraint=grammar, stop=("never",)), slow.events.append)
    engine.submit([3, 4], greedy(max_tokens=12), other.events.append)
    for n_tokens in (1, 2, 2):
        for _ in range(3):
            assert engine.step(lambda: woken.append(None)) is not None
        assert not woken
        grammar.answer()
        assert woken.pop() is None
        engine.step(lambda: woken.append(None))
        assert len(slow.tokens) == n_tokens
    assert slow.end == Finished(reason="stop", n_prompt=2, n_cached=0, n_completion=2)
    assert slow.text == TOKENIZER.decode([400, 400])
    while engine.has_work:
        engine.step(lambda: woken.append(None))
    assert other.token_ids == answer([3, 4], greedy(max_tokens=12)).token_ids


def test_nothing_is_computed_while_all_texts_wait_for_their_grammars() -> None:
    executor, grammar, talk = FakeExecutor(checksum, vocab_size=VOCAB), SlowGrammar(VOCAB, 5), Talk()
    engine = Engine(executor, TOKENIZER, max_seq_len=24)
    engine.submit([1], greedy(constraint=grammar, max_tokens=1), talk.events.append)
    assert engine.step() is None
    assert not executor.steps
    grammar.answer()
    assert engine.step() is not None
    assert engine.step() is None  # whether the text is complete is not known yet
    assert [type(event) for event in talk.events] == [TextDelta]
    grammar.answer()
    assert engine.step() is None
    assert talk.end.reason == "length"
    assert len(executor.steps) == 1


def test_a_grammar_that_fails_ends_its_text() -> None:
    grammar, talk = SlowGrammar(VOCAB, 5), Talk()
    engine = Engine(FakeExecutor(checksum, vocab_size=VOCAB), TOKENIZER, max_seq_len=24)
    engine.submit([1], greedy(constraint=grammar), talk.events.append)
    grammar.answer()
    engine.step()
    grammar.asked[-1].set_exception(DllamaError("too complex"))
    engine.step()
    assert isinstance(talk.events[-1], Failed)
    assert str(talk.events[-1].error) == "too complex"
    assert not engine.has_work


def test_whoever_goes_away_no_longer_wants_an_answer_of_the_grammar() -> None:
    grammar = SlowGrammar(VOCAB, 5)
    engine = Engine(FakeExecutor(checksum, vocab_size=VOCAB), TOKENIZER, max_seq_len=24)
    engine.cancel(engine.submit([1], greedy(constraint=grammar), lambda event: None))
    assert grammar.asked[-1].cancelled()
    assert engine.step() is None


# Embeddings


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


def test_a_long_prompt_tells_how_far_it_is() -> None:
    """After each step of it but the last, and only where somebody asks."""
    talk = answer([1] * 20, greedy(max_tokens=2, progress=True))
    assert talk.events[:2] == [PromptProgress(8, 20), PromptProgress(16, 20)]
    assert not any(isinstance(event, PromptProgress) for event in talk.events[2:])
    assert not any(isinstance(e, PromptProgress) for e in answer([1] * 20, greedy(max_tokens=2)).events)


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
