"""Grammars as the engine meets them."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

import pytest

from dllama.errors import DllamaError, SystemLimitError
from dllama.server.errors import ApiError
from dllama.server.grammar import GrammarCompiler
from dllama.tokenizer import load_tokenizer
from support.killed import start_and_kill
from support.places import TIMEOUT_S, Place
from support.processes import DEMO_MODEL

TOKENIZER = load_tokenizer(DEMO_MODEL)
PADDED_VOCAB = TOKENIZER.vocab_size + 13
"""Models have more logits than tokens."""


@pytest.fixture(scope="module")
def grammars() -> Iterator[GrammarCompiler]:
    with contextlib.closing(GrammarCompiler(TOKENIZER, PADDED_VOCAB)) as grammars:
        yield grammars


PATTERNS = [{"type": "string", "pattern": f"a{{{i}}}.*b"} for i in range(1, 30)]


def place_in(grammars: GrammarCompiler, schema: dict[str, object]) -> Place:
    (constraint,) = grammars.json_schema(schema, "x").result(TIMEOUT_S)
    return Place(constraint)


def test_a_schema_from_beginning_to_end(grammars: GrammarCompiler) -> None:
    place = place_in(grammars, {"enum": ["yes", "no"]})
    assert all(TOKENIZER.token_bytes(i).startswith(b'"') for i in place.allowed_ids)
    for token_id in TOKENIZER.encode('"yes"'):
        assert not place.is_finished
        assert token_id in place.allowed_ids
        place.advance(token_id)
    assert place.is_finished
    assert sorted(place.allowed_ids) == sorted(TOKENIZER.eos_ids)


def test_a_tokenizer_of_more_tokens_than_the_model() -> None:
    n_logits = max(TOKENIZER.encode('"yes"')) + 1
    assert n_logits < TOKENIZER.vocab_size
    with contextlib.closing(GrammarCompiler(TOKENIZER, n_logits, frozenset({0}))) as grammars:
        place = place_in(grammars, {"enum": ["yes"]})
        for token_id in TOKENIZER.encode('"yes"'):
            place.advance(token_id)
        assert place.is_finished


def test_several_texts_follow_one_grammar_each_at_its_own_place(grammars: GrammarCompiler) -> None:
    constraints = grammars.json_schema({"enum": ["yes", "no"]}, "x", 3).result(TIMEOUT_S)
    first, second, third = map(Place, constraints)
    for token_id in TOKENIZER.encode('"yes"'):
        first.advance(token_id)
    second.advance(TOKENIZER.encode('"no"')[0])
    assert first.is_finished
    assert second.allowed_ids != third.allowed_ids == Place(constraints[2]).allowed_ids
    assert not third.is_finished


def test_a_token_that_was_not_allowed(grammars: GrammarCompiler) -> None:
    place = place_in(grammars, {"type": "integer"})
    with pytest.raises(DllamaError, match="cannot be followed"):
        place.advance(TOKENIZER.encode("x")[0])


@pytest.mark.parametrize("pattern", ["^(((a{100}){100}){100}){100}$", "^(a?){9000}a{9000}$"])
def test_a_grammar_that_takes_long_is_refused(grammars: GrammarCompiler, pattern: str) -> None:
    """At once or at the first token that costs too much: never more than a fraction of a second for an answer."""
    with pytest.raises(DllamaError, match=r"too (many|complex|big)"):
        follow(grammars, {"type": "string", "pattern": pattern}, n_tokens=20)


def follow(grammars: GrammarCompiler, schema: dict[str, object], n_tokens: int) -> None:
    place = place_in(grammars, schema)
    for _ in range(n_tokens):
        start = time.process_time()
        place.advance(place.allowed_ids[0])
        assert time.process_time() - start < 2, "a fraction of a second, but for a busy machine"


def test_a_text_has_a_budget_of_time(grammars: GrammarCompiler, monkeypatch: pytest.MonkeyPatch) -> None:
    """It grows with the text: one second, and 20 ms for each token."""
    now = [0.0]

    def thread_time() -> float:
        now[0] += 0.1
        return now[0]

    monkeypatch.setattr(time, "thread_time", thread_time)
    place = place_in(grammars, {"type": "string"})
    place.advance(TOKENIZER.encode('"')[0])
    with pytest.raises(DllamaError, match=r"takes too long: 1\.\d s for 1\d tokens"):
        place.advance_all(TOKENIZER.encode("a") * 50)


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "nonsense"},
        {"$ref": "http://example.org/schema"},
        {"type": "string", "pattern": "("},
        {"not": {}},
    ],
)
def test_unsound_schemas(grammars: GrammarCompiler, schema: dict[str, object]) -> None:
    with pytest.raises(ApiError, match="response_format: ") as caught:
        grammars.json_schema(schema, "response_format").result(TIMEOUT_S)
    assert caught.value.status == 400


def test_the_reason_is_a_whole_sentence(grammars: GrammarCompiler) -> None:
    for schema, reason in (
        ({"type": "string", "pattern": "(?=a)b"}, "look-around, .* is not supported"),
        ({"$ref": "#"}, "no answer can follow it"),
    ):
        with pytest.raises(ApiError, match=reason):
            grammars.json_schema(schema, "response_format").result(TIMEOUT_S)


def test_a_grammar_that_cannot_be_read_in_time(
    grammars: GrammarCompiler, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ends with the process that tries it; others are read afterwards."""
    monkeypatch.setattr("dllama.server.grammar_check._TIME_S", 0.3)
    schema = {"type": "object", "properties": {"x": {"allOf": PATTERNS}}}
    with pytest.raises(ApiError, match=r"reading it takes more than 0\.3 s") as caught:
        grammars.json_schema(schema, "response_format").result(TIMEOUT_S)
    assert caught.value.status == 400
    assert place_in(grammars, {"type": "string", "pattern": "^a$"}).allowed_ids


def test_a_grammar_that_was_refused_is_not_tried_again(
    grammars: GrammarCompiler, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client that asks for it again and again takes two seconds of a processor once."""
    monkeypatch.setattr("dllama.server.grammar_check._TIME_S", 0.3)
    schema: dict[str, object] = {"type": "array", "items": {"allOf": PATTERNS}}
    with pytest.raises(ApiError, match="reading it takes more"):
        place_in(grammars, schema)
    monkeypatch.setattr("sys.executable", "/nothing")
    with pytest.raises(ApiError, match="reading it takes more"):
        place_in(grammars, schema)


def test_usual_grammars_do_not_wait_for_doubtful_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither for those that are tried, nor for a doubtful one that is known to be sound."""
    known: dict[str, object] = {"type": "string", "pattern": "^ab?$"}
    with contextlib.closing(GrammarCompiler(TOKENIZER, PADDED_VOCAB)) as grammars:
        place_in(grammars, known)
        monkeypatch.setattr("dllama.server.grammar_check._TIME_S", 1000.0)
        slow = [grammars.json_schema({"type": "array", "items": {"allOf": PATTERNS}}, "x") for _ in range(3)]
        assert place_in(grammars, {"type": "integer"}).allowed_ids
        assert place_in(grammars, known).allowed_ids
        assert not any(future.done() for future in slow)


def test_a_process_that_is_killed_is_no_fault_of_the_grammar(
    grammars: GrammarCompiler, monkeypatch: pytest.MonkeyPatch
) -> None:
    schema: dict[str, object] = {"type": "string", "pattern": "^ae?$"}

    with monkeypatch.context() as deadly:
        deadly.setattr("dllama.server.grammar_check.start_limited", start_and_kill)
        with pytest.raises(SystemLimitError, match="was killed"):
            place_in(grammars, schema)
    assert place_in(grammars, schema).allowed_ids


def test_a_model_that_goes_away_is_no_error_of_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """A grammar that is being read, one that waits for it, and one that comes just afterwards: clients try again."""
    monkeypatch.setattr("dllama.server.grammar_check._TIME_S", 1000.0)
    grammars = GrammarCompiler(TOKENIZER, PADDED_VOCAB)
    promises = [grammars.json_schema({"allOf": PATTERNS}, "x") for _ in range(2)]
    grammars.close()
    promises += [grammars.json_schema({"type": "integer"}, "x"), grammars.lark('start: "a"', "tools")]
    for promise in promises:
        error = promise.exception(10)
        assert isinstance(error, SystemLimitError) or (isinstance(error, ApiError) and error.status == 503), (
            error
        )


def test_the_end_waits_for_no_grammar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dllama.server.grammar_check._TIME_S", 1000.0)
    grammars = GrammarCompiler(TOKENIZER, PADDED_VOCAB)
    reading, waiting = (grammars.json_schema({"allOf": PATTERNS}, "x") for _ in range(2))
    started = time.perf_counter()
    grammars.close()
    assert time.perf_counter() - started < 10
    for future in (reading, waiting):
        assert future.cancelled() or future.exception() is not None


def test_a_grammar_that_was_read_is_not_tried_again(
    grammars: GrammarCompiler, monkeypatch: pytest.MonkeyPatch
) -> None:
    schema = {"type": "string", "pattern": "^abc+$"}
    place_in(grammars, schema)
    monkeypatch.setattr("sys.executable", "/nothing")
    place_in(grammars, schema)
    place_in(grammars, {"type": "object", "properties": {"a": {"type": "integer"}}})
    with pytest.raises(SystemLimitError, match="no process can be started"):
        place_in(grammars, {"type": "string", "pattern": "^abd+$"})


def test_json_is_written_on_one_line(grammars: GrammarCompiler) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}, "b": {}}, "required": ["a"]}
    place = place_in(grammars, schema)
    for token_id in TOKENIZER.encode('{"a": 1'):
        assert token_id in place.allowed_ids
        place.advance(token_id)
    following = {TOKENIZER.token_bytes(i)[:1] for i in place.allowed_ids}
    assert following == {*(str(n).encode() for n in range(10)), b",", b"}"}
