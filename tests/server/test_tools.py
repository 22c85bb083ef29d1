"""Calls of tools in every format: what the grammar lets through, the parser takes apart."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dllama.answers.tool_formats import JSON_FORMATS, JsonCalls, tool_format_of
from dllama.answers.tool_output import AnswerText, CallArguments, CallBegins, Part, ToolOutput
from dllama.server.grammar import GrammarCompiler
from dllama.server.request_parts import Function
from dllama.server.tool_grammar import tool_grammar
from dllama.tokenizer import load_tokenizer
from support.places import TIMEOUT_S, Place
from support.processes import DEMO_MODEL

FUNCTIONS = [
    Function(
        name="add", parameters={"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    ),
    Function(name="words.say", parameters={"type": "object", "properties": {"text": {"type": "string"}}}),
]
CALLS = [("add", '{"a": 5}'), ("words.say", '{"text": "a \\"}] b"}'), ("add", '{"a": -12}')]

formats = pytest.mark.parametrize("tool_format", JSON_FORMATS, ids=lambda known: known.name)


def head(tool_format: JsonCalls, name: str, number: int = 0) -> str:
    numbered = f"{name}:{number}" if tool_format.is_numbered else name
    return tool_format.before_name + numbered + tool_format.before_arguments


def written(tool_format: JsonCalls, calls: list[tuple[str, str]]) -> str:
    bodies = [
        head(tool_format, name, number) + arguments + tool_format.after
        for number, (name, arguments) in enumerate(calls)
    ]
    return tool_format.opener + tool_format.separator.join(bodies) + tool_format.closer


def calls_for(tool_format: JsonCalls) -> list[tuple[str, str]]:
    return CALLS[: tool_format.max_calls]


def joined(parts: list[Part]) -> tuple[str, list[tuple[str, str]]]:
    """Content, and (name, arguments) of each call."""
    content = "".join(part.text for part in parts if isinstance(part, AnswerText))
    names = [part.name for part in parts if isinstance(part, CallBegins)]
    arguments = [
        "".join(part.text for part in parts if isinstance(part, CallArguments) and part.index == index)
        for index in range(len(names))
    ]
    return content, list(zip(names, arguments, strict=True))


def parsed(tool_format: JsonCalls, pieces: list[str]) -> tuple[str, list[tuple[str, str]]]:
    output = ToolOutput(tool_format)
    return joined([part for piece in pieces for part in output.feed(piece)] + list(output.end()))


@formats
@given(data=st.data())
def test_calls_are_found_however_the_text_is_cut(tool_format: JsonCalls, data: st.DataObject) -> None:
    calls = calls_for(tool_format)
    content = "Let me see [it] {now} <tool>:" if tool_format.opener else ""
    text = content + (" \n" if content else "") + written(tool_format, calls)
    cuts = sorted(data.draw(st.sets(st.integers(1, len(text) - 1), max_size=12)))
    pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    assert parsed(tool_format, pieces) == (content, calls)


@formats
@given(st.lists(st.sampled_from(["<tool_", "call", "> ", "{", '"name": ', "[TOOL", "_CALLS", "x\n", " "])))
def test_text_without_a_call_stays_as_it_is(tool_format: JsonCalls, pieces: list[str]) -> None:
    text = "".join(pieces)
    begins = (
        text.startswith(tool_format.before_name) if not tool_format.opener else tool_format.opener in text
    )
    if not begins:
        assert parsed(tool_format, pieces) == (text, [])


@formats
def test_a_call_that_was_cut_off(tool_format: JsonCalls) -> None:
    """As max_tokens does: what came of the arguments is there."""
    text = tool_format.opener + head(tool_format, "add") + '{"a": 1'
    assert parsed(tool_format, list(text)) == ("", [("add", '{"a": 1')])
    assert parsed(tool_format, list(text[: len(tool_format.opener) + 2]))[1] == []


@pytest.fixture(scope="module")
def grammars() -> Iterator[GrammarCompiler]:
    with contextlib.closing(GrammarCompiler(TOKENIZER, TOKENIZER.vocab_size)) as grammars:
        yield grammars


TOKENIZER = load_tokenizer(DEMO_MODEL)


def accepts(grammars: GrammarCompiler, grammar: str, text: str) -> bool:
    """Whether `text` is all that the grammar wants."""
    place = place_in(grammars, grammar)
    for token_id in TOKENIZER.encode(text):
        if token_id not in place.allowed_ids:
            return False
        place.advance(token_id)
    return TOKENIZER.eos_ids[0] in place.allowed_ids


def place_in(grammars: GrammarCompiler, grammar: str) -> Place:
    (constraint,) = grammars.lark(grammar, "tools").result(TIMEOUT_S)
    return Place(constraint)


@formats
def test_grammar(tool_format: JsonCalls, grammars: GrammarCompiler) -> None:
    calls = calls_for(tool_format)
    one = written(tool_format, calls[:1])
    several = written(tool_format, [*calls[:1], ("add", '{"a": 7}')])
    wrong = written(tool_format, [("add", '{"a": "x"}')])
    unknown = written(tool_format, [("sub", '{"a": 1}')])

    def grammar(must_call: bool, parallel: bool) -> str:
        return tool_grammar(tool_format, FUNCTIONS, {}, must_call=must_call, parallel=parallel)

    forced, free = grammar(True, False), grammar(False, True)
    for each in (forced, free):
        assert accepts(grammars, each, one)
        assert not accepts(grammars, each, wrong)
        assert not accepts(grammars, each, unknown)
        assert not accepts(grammars, each, one[:-1] if tool_format.after or tool_format.closer else one[:-2])
    assert not accepts(grammars, forced, "No.")
    assert not accepts(grammars, forced, several)
    assert accepts(grammars, free, several) == (tool_format.max_calls is None)
    assert accepts(grammars, free, "No.\nNothing {here}.")
    assert accepts(grammars, free, "")


def test_special_tokens_of_a_format(grammars: GrammarCompiler) -> None:
    """A marker that is a special token is wanted as that token, not as its letters."""
    marker = "<|start_header_id|>"
    special = JsonCalls(name="x", telltale="", opener=f"{marker} [", closer="]")
    grammar = tool_grammar(special, FUNCTIONS[:1], TOKENIZER.special_tokens, must_call=True, parallel=False)
    assert place_in(grammars, grammar).allowed_ids == [TOKENIZER.special_tokens[marker]]


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ('{%- if tools %}<tools></tools> ... <tool_call>\\n{"name": ', "qwen"),
        (
            'Respond in the format {"name": function name, "parameters": dictionary of argument name}',
            "llama 3",
        ),
        ('{{ "[TOOL_CALLS] [" }}', "mistral 3"),
        ('{{- "[TOOL_CALLS][" }}', "mistral 3 (tekken)"),
        ('{{- "[TOOL_CALLS]" + name + "[ARGS]" }}', "mistral 11"),
        ("{{ messages[0].content }}", None),
    ],
)
def test_format_of_a_template(source: str, name: str | None) -> None:
    known = tool_format_of(source)
    assert (known.name if known else None) == name


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        (
            "kimi",
            "<|tool_calls_section_begin|><|tool_call_begin|>functions.get_weather:0<|tool_call_argument_begin|>"
            '{"city": "Beijing"}<|tool_call_end|><|tool_call_begin|>functions.now:1<|tool_call_argument_begin|>{}'
            "<|tool_call_end|><|tool_calls_section_end|>",
            [
                ("get_weather", '{"city": "Beijing"}', "functions.get_weather:0"),
                ("now", "{}", "functions.now:1"),
            ],
        ),
        (
            "deepseek 3.1",
            "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>get_weather<｜tool▁sep｜>"
            '{"city": "Beijing"}<｜tool▁call▁end｜><｜tool▁calls▁end｜>',
            [("get_weather", '{"city": "Beijing"}', None)],
        ),
    ],
)
def test_documented_answers(name: str, text: str, expected: list[tuple[str, str, str | None]]) -> None:
    tool_format = next(known for known in JSON_FORMATS if known.name == name)
    for pieces in ([text], list(text), *([text[:place], text[place:]] for place in range(len(text)))):
        output = ToolOutput(tool_format)
        parts = [part for piece in pieces for part in output.feed(piece)] + list(output.end())
        content, calls = joined(parts)
        ids = [part.id for part in parts if isinstance(part, CallBegins)]
        assert [(*call, own_id) for call, own_id in zip(calls, ids, strict=True)] == expected
        assert content == ""


def test_json_stays_json() -> None:
    """What the constants above say is what json.dumps writes."""
    assert all(json.dumps(json.loads(arguments)) == arguments for _, arguments in CALLS)
