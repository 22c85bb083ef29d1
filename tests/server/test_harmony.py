"""gpt-oss's answers in channels: told apart however they are cut, and held to by grammars."""

from __future__ import annotations

import contextlib
import itertools
import json
import shutil
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dllama.answers.harmony import HarmonyOutput, stage_of
from dllama.answers.reasoning_formats import Stage
from dllama.answers.reasoning_output import Reasoning
from dllama.answers.tool_output import AnswerText, CallArguments, CallBegins
from dllama.server.grammar import GrammarCompiler
from dllama.server.harmony_grammar import harmony_schema_grammar, harmony_tool_grammar
from dllama.server.history import one_call_each
from dllama.server.request_parts import Function
from dllama.tokenizer import load_tokenizer
from support import places
from support.api_process import ApiProcess, ask, events_of
from support.processes import DEMO_MODEL

TOKENIZER = load_tokenizer(DEMO_MODEL)

THOUGHT = "<|channel|>analysis<|message|>Need to use get_weather.<|end|>"
CALL = '<|channel|>commentary to=functions.get_weather <|constrain|>json<|message|>{"city":"San Francisco"}'
TEMPLATE_CALL = ' to=functions.get_weather<|channel|>commentary json<|message|>{"city":"San Francisco"}'
CALLED = [("get_weather", '{"city":"San Francisco"}')]

Told = tuple[str, str, list[tuple[str, str]]]


def told(pieces: list[str], stage: Stage = Stage.MAY_THINK, *, has_tools: bool = True) -> Told:
    """(thoughts, content, calls)."""
    output = HarmonyOutput(stage, has_tools=has_tools)
    parts = [part for piece in pieces for part in output.feed(piece)] + list(output.end())
    calls: list[tuple[str, str]] = []
    for part in parts:
        if isinstance(part, CallBegins):
            calls.append((part.name, ""))
        elif isinstance(part, CallArguments):
            calls[part.index] = (calls[part.index][0], calls[part.index][1] + part.text)
    assert output.n_calls == len(calls)
    thought = "".join(part.text for part in parts if isinstance(part, Reasoning))
    return thought, "".join(part.text for part in parts if isinstance(part, AnswerText)), calls


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "<|channel|>analysis<|message|>2 + 2.<|end|><|start|>assistant<|channel|>final<|message|>4<|return|>",
            ("2 + 2.", "4", []),
        ),
        ("<|channel|>final<|message|>At once\n", ("", "At once\n", [])),
        (f"{THOUGHT}<|start|>assistant{CALL}<|call|>", ("Need to use get_weather.", "", CALLED)),
        (f"{THOUGHT}<|start|>assistant{TEMPLATE_CALL}", ("Need to use get_weather.", "", CALLED)),
        (TEMPLATE_CALL, ("", "", CALLED)),
        (
            f"<|channel|>commentary<|message|>I shall look.<|end|><|start|>assistant{CALL}",
            ("", "I shall look.", CALLED),
        ),
        (
            "<|channel|>analysis<|message|>a<|end|><|start|>assistant<|channel|>analysis<|message|>b <|end|>"
            "<|start|>assistant<|channel|>final<|message|>c <|x|> <",
            ("a\n\nb ", "c <|x|> <", []),
        ),
        ("<|channel|>analysis<|message|>cut o", ("cut o", "", [])),
        ("<|channel|>analysis<|mess", ("", "", [])),
        ("Hello <|message|>", ("", "Hello <|message|>", [])),
    ],
)
def test_documented_answers(text: str, expected: Told) -> None:
    assert told([text]) == expected
    assert told(list(text)) == expected
    for place in range(len(text)):
        assert told([text[:place], text[place:]]) == expected


def test_an_answer_that_goes_on_within_the_final_message() -> None:
    assert stage_of("<|start|>assistant<|channel|>final<|message|>It is") is Stage.ANSWERS
    assert stage_of("<|start|>user<|message|>?<|end|><|start|>assistant") is Stage.MAY_THINK
    assert told([" grey.<|end|><|start|>assistant", CALL], Stage.ANSWERS) == ("", " grey.", CALLED)


def test_without_tools_there_are_no_calls() -> None:
    assert told([CALL], has_tools=False) == ("", '{"city":"San Francisco"}', [])


@given(
    words=st.lists(
        st.sampled_from(
            ["<|start|>assistant", "<|channel|>", "analysis", "final", "<|message|>", "<|end|>", "<|", " to=f", "\n"]
        ),
        max_size=12,
    ),
    places=st.lists(st.integers(0, 150), max_size=6),
    stage=st.sampled_from([Stage.MAY_THINK, Stage.ANSWERS]),
)  # fmt: skip
def test_any_cut_gives_the_same(words: list[str], places: list[int], stage: Stage) -> None:
    text = "".join(words)
    bounds = [0, *sorted(place % (len(text) + 1) for place in places), len(text)]
    assert told([text[a:b] for a, b in itertools.pairwise(bounds)], stage) == told([text], stage)


def test_each_call_has_its_results_after_it() -> None:
    calls = [{"id": name, "function": {"name": name}} for name in "ab"]
    results = [{"role": "tool", "tool_call_id": name, "content": name} for name in "ba"]
    said = {"role": "assistant", "content": "I look.", "thinking": "Hm", "tool_calls": calls}
    turns = one_call_each([said, *results, {"role": "user", "content": "?"}])
    assert [turn["role"] for turn in turns] == ["assistant", "tool", "assistant", "tool", "user"]
    assert turns[0] == {
        "role": "assistant", "content": "", "thinking": "Hm\n\nI look.", "tool_calls": calls[:1]
    }  # fmt: skip
    assert turns[1] == results[1]
    assert turns[2] == {"role": "assistant", "content": "", "tool_calls": calls[1:]}


# Grammars

CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
FUNCTIONS = [Function(name="get_weather", parameters=CITY)]


@pytest.fixture(scope="module")
def grammars() -> Iterator[GrammarCompiler]:
    with contextlib.closing(GrammarCompiler(TOKENIZER, TOKENIZER.vocab_size)) as grammars:
        yield grammars


MARKS = {"<|message|>": 2043, "<|channel|>": 2045, "<|end|>": 2046}
"""The special tokens of the demo model play three of those of gpt-oss; the others are text."""


def accepts(grammars: GrammarCompiler, grammar: str, text: str) -> bool:
    return places.accepts(grammars, TOKENIZER, grammar, text, MARKS)


SPACED_CALL = CALL.replace(":", ": ")
FINAL = "<|channel|>final<|message|>"


@pytest.mark.parametrize("must_call", [False, True])
def test_grammar_of_calls(grammars: GrammarCompiler, must_call: bool) -> None:
    assert all(TOKENIZER.is_special(number) for number in MARKS.values())
    grammar = harmony_tool_grammar(FUNCTIONS, MARKS, Stage.MAY_THINK, must_call=must_call)
    before = f"{THOUGHT}<|start|>assistant"
    for lead in (
        "",
        before,
        before * 2,
        f"{before}<|channel|>commentary<|message|>So:<|end|><|start|>assistant",
    ):
        assert accepts(grammars, grammar, lead + SPACED_CALL)
        assert accepts(grammars, grammar, lead + TEMPLATE_CALL.replace(":", ": "))
        assert accepts(grammars, grammar, f"{lead}{FINAL}It\nis {{grey}}") is not must_call
    assert not accepts(grammars, grammar, THOUGHT)
    assert not accepts(grammars, grammar, "It is")
    assert not accepts(grammars, grammar, SPACED_CALL.replace("get_weather", "other"))
    assert not accepts(grammars, grammar, SPACED_CALL.replace("city", "town"))


def test_grammar_within_the_final_message(grammars: GrammarCompiler) -> None:
    grammar = harmony_tool_grammar(FUNCTIONS, MARKS, Stage.ANSWERS, must_call=False)
    assert accepts(grammars, grammar, " is grey.")
    assert accepts(grammars, grammar, f" is:<|end|><|start|>assistant{SPACED_CALL}")
    grammar = harmony_tool_grammar(FUNCTIONS, MARKS, Stage.ANSWERS, must_call=True)
    assert not accepts(grammars, grammar, " is grey.")


def test_a_schema_holds_in_the_final_message_only(grammars: GrammarCompiler) -> None:
    schema = {**CITY, "additionalProperties": False}
    grammar = harmony_schema_grammar(schema, MARKS)
    answer = json.dumps({"city": "Paris"})
    assert accepts(grammars, grammar, FINAL + answer)
    assert accepts(grammars, grammar, f"{THOUGHT}<|start|>assistant{FINAL}{answer}")
    assert not accepts(grammars, grammar, f"{THOUGHT}<|start|>assistant{FINAL}Paris")
    assert not accepts(grammars, grammar, THOUGHT)


# Over HTTP, with the demo model made to answer in channels


@pytest.fixture(scope="module")
def channels(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiProcess]:
    """Two of its special tokens are marks of channels, the others are text."""
    model = tmp_path_factory.mktemp("channels") / "model"
    shutil.copytree(DEMO_MODEL, model)
    pipeline = (model / "tokenizer.json").read_text(encoding="utf-8")
    for name, mark in (("<|start_header_id|>", "<|channel|>"), ("<|end_header_id|>", "<|message|>")):
        pipeline = pipeline.replace(name, mark)
    (model / "tokenizer.json").write_text(pipeline, encoding="utf-8")
    (model / "chat_template.jinja").write_text(
        "{# <|channel|>final<|message|> #}{% for m in messages %}{{ m.content }}{% endfor %}"
    )
    with ApiProcess("--model", model) as process:
        yield process


TOOL = {"type": "function", "function": {"name": "a", "parameters": {"type": "object", "properties": {}}}}
ONE = {"properties": {"a": {"enum": [1]}}, "required": ["a"], "additionalProperties": False}


def test_a_required_call_over_http(channels: ApiProcess) -> None:
    body = ask("One day", max_tokens=200, tools=[TOOL], tool_choice="required")
    body["logit_bias"] = {str(token_id): 100 for token_id in TOKENIZER.encode(" to=")}
    choice = channels.post("/v1/chat/completions", body).json()["choices"][0]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["tool_calls"][0]["function"] == {"name": "a", "arguments": "{}"}
    assert choice["message"]["content"] is None
    events = events_of(channels.post("/v1/chat/completions", body | {"stream": True}))[:-1]
    deltas = [call for event in events for call in event["choices"][0]["delta"].get("tool_calls", ())]
    assert "".join(delta["function"].get("name") or "" for delta in deltas) == "a"
    assert "".join(delta["function"]["arguments"] for delta in deltas) == "{}"


def test_a_schema_over_http(channels: ApiProcess) -> None:
    wanted = {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "object", **ONE}}}
    final = {str(token_id): 100 for token_id in TOKENIZER.encode("final")}
    body = ask("One day", max_tokens=200, response_format=wanted, logit_bias=final)
    message = channels.post("/v1/chat/completions", body).json()["choices"][0]["message"]
    assert json.loads(message["content"]) == {"a": 1}
    assert "reasoning_content" not in message
