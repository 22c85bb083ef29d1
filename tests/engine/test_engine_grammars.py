"""Texts whose grammars take their time."""

from __future__ import annotations

from dllama.engine import Engine, Failed, Finished, TextDelta
from dllama.errors import DllamaError
from support.engine_talks import TOKENIZER, VOCAB, Talk, answer, checksum, greedy
from support.fake_executor import FakeExecutor
from support.slow_grammar import SlowGrammar


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
