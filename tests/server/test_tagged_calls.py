"""Calls between tags: what the grammar lets through is parsed, as JSON of the schema's types, however it is cut."""

from __future__ import annotations

import contextlib
import itertools
import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dllama.answers.tool_formats import TAGGED_FORMATS, TaggedCalls, tool_format_of
from dllama.answers.tool_output import AnswerText, CallArguments, CallBegins
from dllama.server.grammar import GrammarCompiler
from dllama.server.parameter_types import as_json, parameter_types
from dllama.server.request_parts import Function
from dllama.server.tagged_output import TaggedOutput
from dllama.server.tool_grammar import tool_grammar
from dllama.tokenizer import load_tokenizer
from support import places
from support.processes import DEMO_MODEL

TOKENIZER = load_tokenizer(DEMO_MODEL)
QWEN, GLM_47, GLM_45, MINIMAX = TAGGED_FORMATS

WEATHER = {
    "type": "object",
    "properties": {
        "city": {"type": "string"},
        "days": {"type": "integer"},
        "units": {"type": "string", "enum": ["C", "F"]},
        "at": {"$ref": "#/$defs/at"},
    },
    "required": ["city"],
    "$defs": {"at": {"type": "array", "items": {"type": "number"}}},
}
FUNCTIONS = [
    Function(name="get_weather", parameters=WEATHER),
    Function(name="now", parameters={"type": "object", "properties": {}}),
    Function(name="any"),
]

formats = pytest.mark.parametrize("tool_format", TAGGED_FORMATS, ids=lambda known: known.name)

Told = tuple[str, list[tuple[str, Any]]]


def raw(pieces: list[str], tool_format: TaggedCalls) -> tuple[str, list[tuple[str, str]]]:
    """Content, and (name, arguments) of each call."""
    output = TaggedOutput(tool_format, FUNCTIONS)
    content, calls = "", list[tuple[str, str]]()
    for part in itertools.chain(*(list(output.feed(piece)) for piece in pieces), output.end()):
        if isinstance(part, CallBegins):
            calls.append((part.name, ""))
        elif isinstance(part, CallArguments):
            calls[part.index] = (calls[part.index][0], calls[part.index][1] + part.text)
        else:
            assert isinstance(part, AnswerText)
            content += part.text
    assert output.n_calls == len(calls)
    return content, calls


def told(text: str, tool_format: TaggedCalls) -> Told:
    content, calls = raw([text], tool_format)
    assert raw(list(text), tool_format) == (content, calls)
    for place in range(len(text)):
        assert raw([text[:place], text[place:]], tool_format) == (content, calls)
    return content, [(name, json.loads(arguments)) for name, arguments in calls]


def written(tool_format: TaggedCalls, calls: list[tuple[str, dict[str, str]]]) -> str:
    """As the templates write it."""
    bodies = [
        tool_format.before_name + name + tool_format.after_name
        + "".join(
            tool_format.before_key + key + tool_format.after_key + value + tool_format.after_value
            for key, value in arguments.items()
        )
        + tool_format.after
        for name, arguments in calls
    ]  # fmt: skip
    return tool_format.opener + tool_format.separator.join(bodies) + tool_format.closer


PARIS = ("get_weather", {"city": 'Paris\n"5" <\\>', "days": "2", "at": "[1, 2.5]"})
READ = ("get_weather", {"city": 'Paris\n"5" <\\>', "days": 2, "at": [1, 2.5]})


@pytest.mark.parametrize(
    ("tool_format", "text", "expected"),
    [
        (
            QWEN,
            "I look.\n\n<tool_call>\n<function=get_weather>\n<parameter=city>\nSan Francisco\n</parameter>\n"
            "<parameter=days>\n3\n</parameter>\n</function>\n</tool_call>",
            ("I look.", [("get_weather", {"city": "San Francisco", "days": 3})]),
        ),
        (
            QWEN,
            "<tool_call><function=get_weather><parameter=city>\n\n\na\n\n</parameter></function></tool_call>",
            ("", [("get_weather", {"city": "\n\na\n"})]),
        ),
        (
            GLM_45,
            "\n<tool_call>get_weather\n<arg_key>city</arg_key>\n<arg_value>北京</arg_value>\n<arg_key>days"
            "</arg_key>\n<arg_value>2</arg_value>\n</tool_call>\n<tool_call>now\n</tool_call>",
            ("", [("get_weather", {"city": "北京", "days": 2}), ("now", {})]),
        ),
        (
            GLM_47,
            "<tool_call>get_weather<arg_key>city</arg_key><arg_value>5</arg_value></tool_call>"
            "<tool_call>now</tool_call>",
            ("", [("get_weather", {"city": "5"}), ("now", {})]),
        ),
        (
            MINIMAX,
            'So:\n<minimax:tool_call>\n<invoke name="get_weather">\n<parameter name="city">San Francisco'
            '</parameter>\n</invoke>\n<invoke name="any">\n<parameter name="query_tag">["technology", "events"]'
            '</parameter>\n<parameter name="q">"x"</parameter></invoke>\n</minimax:tool_call>',
            (
                "So:",
                [
                    ("get_weather", {"city": "San Francisco"}),
                    ("any", {"query_tag": ["technology", "events"], "q": '"x"'}),
                ],
            ),
        ),
    ],
)
def test_documented_answers(tool_format: TaggedCalls, text: str, expected: Told) -> None:
    assert told(text, tool_format) == expected


@formats
def test_calls_as_templates_write_them(tool_format: TaggedCalls) -> None:
    text = "Let me see <x>:\n" + written(tool_format, [PARIS, ("now", {}), PARIS])
    assert told(text, tool_format) == ("Let me see <x>:", [READ, ("now", {}), READ])


@formats
def test_a_call_that_was_cut_off(tool_format: TaggedCalls) -> None:
    """As max_tokens does: what came of a text is there, a value that is no text is there when it is whole."""
    text = written(tool_format, [PARIS])
    assert raw([text[: text.index('"5"')]], tool_format)[1] == [("get_weather", '{"city": "Paris\\n')]
    assert raw([text[: text.index("[1") + 4]], tool_format)[1][0][1].endswith('"days": 2, "at": ')


@formats
@given(data=st.data())
def test_any_cut_gives_the_same(tool_format: TaggedCalls, data: st.DataObject) -> None:
    tags = [tool_format.opener, tool_format.before_name, tool_format.after_name, tool_format.before_key]
    tags += [tool_format.after_key, tool_format.after_value, tool_format.after, tool_format.closer]
    words = data.draw(st.lists(st.sampled_from([*tags, "city", "now", "<", "\n", '"', "5"]), max_size=16))
    text = "".join(words)
    cuts = data.draw(st.lists(st.integers(0, len(text)), max_size=6))
    bounds = [0, *sorted(cuts), len(text)]
    pieces = [text[a:b] for a, b in itertools.pairwise(bounds)]
    assert raw(pieces, tool_format) == raw([text], tool_format)


@pytest.mark.parametrize(
    ("schema", "text", "value"),
    [
        ({"type": "string"}, "5", "5"),
        ({"type": "integer"}, " 5 ", 5),
        ({"type": "number"}, "NaN", "NaN"),
        ({"type": "boolean"}, "True", True),
        ({"type": ["string", "null"]}, "None", None),
        ({"type": ["string", "null"]}, "5", "5"),
        ({"anyOf": [{"type": "integer"}, {"type": "string"}]}, "5", 5),
        ({"enum": ["5", 6]}, "6", 6),
        ({"type": "object"}, '{"a": [1]}', {"a": [1]}),
        ({"type": "object"}, "{'a'", "{'a'"),
        ({}, "a b", "a b"),
        ({}, "[1]", [1]),
        ({}, '"a"', '"a"'),
        (True, "1e999", "1e999"),
        ({"$ref": "#/properties/p"}, "5", 5),
    ],
)
def test_types_of_values(schema: Any, text: str, value: Any) -> None:
    types = parameter_types({"properties": {"p": schema}})["p"]
    assert json.loads(as_json(text, types)) == value


# Grammars


@pytest.fixture(scope="module")
def grammars() -> Iterator[GrammarCompiler]:
    with contextlib.closing(GrammarCompiler(TOKENIZER, TOKENIZER.vocab_size)) as grammars:
        yield grammars


def accepts(grammars: GrammarCompiler, grammar: str, text: str) -> bool:
    return places.accepts(grammars, TOKENIZER, grammar, text)


@formats
@pytest.mark.parametrize("must_call", [False, True])
def test_grammar(tool_format: TaggedCalls, must_call: bool, grammars: GrammarCompiler) -> None:
    grammar = tool_grammar(tool_format, FUNCTIONS, {}, must_call=must_call, parallel=not must_call)

    def accepted(*calls: tuple[str, dict[str, str]]) -> bool:
        return accepts(grammars, grammar, written(tool_format, list(calls)))

    assert accepted(PARIS)
    assert accepted(PARIS, ("now", {}), PARIS) is not must_call
    assert accepted(("now", {}))
    assert accepted(("any", {"x": "a", "y": "1"}))
    assert accepted(("get_weather", {"city": "", "units": "F"}))
    assert not accepted(("get_weather", {"city": "", "units": "K"}))
    assert not accepted(("get_weather", {"days": "2"}))
    assert not accepted(("get_weather", {"city": "a", "days": "two"}))
    assert not accepted(("get_weather", {"city": "a", "town": "b"}))
    assert not accepted(("other", {}))
    assert accepts(grammars, grammar, "No <b>.\n") is not must_call
    assert accepts(grammars, grammar, "So:\n" + written(tool_format, [PARIS])) is not must_call


@pytest.mark.parametrize(
    ("source", "expected"),
    [("<tool_call>\\n<function=", QWEN), ("<arg_key>k</arg_key><arg_value>", GLM_47), ("<arg_key>", GLM_45)],
)
def test_format_of_a_template(source: str, expected: TaggedCalls) -> None:
    assert tool_format_of(source) is expected


def test_tags_that_are_special_tokens(grammars: GrammarCompiler) -> None:
    """They are wanted as tokens; a text ends with that token alone."""
    marks = {"<tool_call>": 2043, "</arg_value>": 2045, "<arg_key>": 2046}
    grammar = tool_grammar(GLM_47, FUNCTIONS, marks, must_call=False, parallel=True)
    text = "So: " + written(GLM_47, [PARIS, ("now", {}), PARIS])
    assert places.accepts(grammars, TOKENIZER, grammar, text, marks)
    assert not places.accepts(grammars, TOKENIZER, grammar, text.replace("</tool_call>", "", 1), marks)
    assert not places.accepts(grammars, TOKENIZER, grammar, text.replace("days", "hours"), marks)
