"""What a model thinks is told apart from what it says, however the text is cut; grammars hold for the latter."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Iterator
from concurrent.futures import Future
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dllama.answers.reasoning_formats import REASONING_FORMATS, ReasoningFormat, Stage
from dllama.answers.reasoning_output import Reasoning, ReasoningOutput
from dllama.answers.tool_output import AnswerText
from dllama.engine import Following
from dllama.server.after_thought import AfterThought
from dllama.tokenizer import load_tokenizer
from support.api_process import ApiProcess, ask, events_of
from support.processes import DEMO_MODEL

TOKENIZER = load_tokenizer(DEMO_MODEL)
OPENER, CLOSER, END = 2045, 2046, 2047
MARKS = ReasoningFormat("<|start_header_id|>", "<|end_header_id|>")

THINK = ReasoningFormat("<think>", "</think>")


def split(pieces: list[str], stage: Stage, reasoning: ReasoningFormat = THINK) -> tuple[str, str]:
    """(thought, answer)."""
    output = ReasoningOutput(reasoning, stage)
    parts = [part for piece in pieces for part in output.feed(piece)] + list(output.end())
    kinds = [isinstance(part, Reasoning) for part in parts]
    assert kinds == sorted(kinds, reverse=True), "a thought comes before the answer"
    assert all(part.text for part in parts)
    thought = "".join(part.text for part in parts if isinstance(part, Reasoning))
    return thought, "".join(part.text for part in parts if isinstance(part, AnswerText))


@pytest.mark.parametrize(
    ("text", "stage", "thought", "answer"),
    [
        ("<think>\nwhy\n</think>\n\nyes", Stage.MAY_THINK, "why", "yes"),
        ("\n<think>why</think>yes", Stage.MAY_THINK, "why", "yes"),
        ("why\n</think>\n\nyes ", Stage.THINKS, "why", "yes "),
        ("<think>\nwhy</think>yes", Stage.THINKS, "why", "yes"),
        ("\n\n</think>\n\nyes", Stage.THINKS, "", "yes"),
        ("<think>\n\n</think>\n\nyes", Stage.MAY_THINK, "", "yes"),
        ("<think>a < b </thin", Stage.MAY_THINK, "a < b </thin", ""),
        ("why not ", Stage.THINKS, "why not", ""),
        (" yes <think>no</think>", Stage.MAY_THINK, "", " yes <think>no</think>"),
        ("<thin", Stage.MAY_THINK, "", "<thin"),
        ("  <think>no</think>", Stage.ANSWERS, "", "  <think>no</think>"),
        ("a</think>b</think>c", Stage.THINKS, "a", "b</think>c"),
        ("", Stage.THINKS, "", ""),
    ],
)
def test_thoughts_and_answers(text: str, stage: Stage, thought: str, answer: str) -> None:
    assert split([text], stage) == (thought, answer)
    assert split(list(text), stage) == (thought, answer)


@given(
    words=st.lists(
        st.sampled_from(["<think>", "</think>", "<", "</", "think>", " ", "\n", "a"]), max_size=10
    ),
    places=st.lists(st.integers(0, 80), max_size=6),
    stage=st.sampled_from(Stage),
)
def test_any_cut_gives_the_same(words: list[str], places: list[int], stage: Stage) -> None:
    text = "".join(words)
    bounds = [0, *sorted(place % (len(text) + 1) for place in places), len(text)]
    assert split([text[a:b] for a, b in itertools.pairwise(bounds)], stage) == split([text], stage)


@pytest.mark.parametrize("reasoning", REASONING_FORMATS, ids=lambda reasoning: reasoning.opener)
def test_each_format(reasoning: ReasoningFormat) -> None:
    text = f"{reasoning.opener}why{reasoning.closer}yes"
    assert split(list(text), Stage.MAY_THINK, reasoning) == ("why", "yes")


def test_nothing_waits_that_cannot_become_a_mark() -> None:
    output = ReasoningOutput(THINK, Stage.THINKS)
    assert list(output.feed("I think < so")) == [Reasoning("I think < so")]
    assert list(output.feed("</think>No")) == [AnswerText("No")]
    assert list(output.feed("</think>")) == [AnswerText("</think>")]


# Grammars


class Only400:
    """A grammar of one token."""

    def __init__(self) -> None:
        self.seen: list[int] = []

    def start(self) -> Future[Following]:
        future: Future[Following] = Future()
        future.set_result(Following(np.packbits(np.arange(2048) == 400, bitorder="little")))
        return future

    def advance(self, token_id: int) -> Future[Following]:
        self.seen.append(token_id)
        return self.start()


def allowed(following: Future[Following]) -> set[int]:
    bits = following.result().allowed
    assert bits is not None
    return set(np.flatnonzero(np.unpackbits(bits, bitorder="little")).tolist())


def after_thought(stage: Stage) -> tuple[AfterThought, Only400]:
    answer = Only400()
    return AfterThought(answer, MARKS, stage, TOKENIZER, vocab_size=2048, end_ids=[END, 2044]), answer


def test_a_grammar_waits_for_the_end_of_the_thought() -> None:
    everything = set(range(2048)) - {END, 2044}
    grammar, answer = after_thought(Stage.THINKS)
    assert allowed(grammar.start()) == everything
    assert allowed(grammar.advance(7)) == everything
    assert allowed(grammar.advance(CLOSER)) == {400}
    assert allowed(grammar.advance(400)) == {400}
    assert answer.seen == [400]


def test_a_model_may_think_before_what_a_grammar_says() -> None:
    grammar, answer = after_thought(Stage.MAY_THINK)
    assert allowed(grammar.start()) == {400, OPENER}
    assert len(allowed(grammar.advance(OPENER))) == 2046
    assert allowed(grammar.advance(CLOSER)) == {400}
    grammar, answer = after_thought(Stage.MAY_THINK)
    grammar.start()
    assert allowed(grammar.advance(400)) == {400}
    assert answer.seen == [400]


def test_a_mark_of_several_tokens_ends_a_thought() -> None:
    answer = Only400()
    grammar = AfterThought(answer, THINK, Stage.THINKS, TOKENIZER, vocab_size=2048, end_ids=[])
    sizes = [len(allowed(grammar.advance(token_id))) for token_id in TOKENIZER.encode("why</think>")]
    assert sizes[-1] == 1
    assert set(sizes[:-1]) == {2048}


# Over HTTP, with the demo model made to think


@pytest.fixture(scope="module")
def thinker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiProcess]:
    """Two of its special tokens are the marks of Mistral's thoughts; its template opens one unless told otherwise."""
    model = tmp_path_factory.mktemp("thinker") / "model"
    shutil.copytree(DEMO_MODEL, model)
    pipeline = (model / "tokenizer.json").read_text(encoding="utf-8")
    for name, mark in (("<|start_header_id|>", "[THINK]"), ("<|end_header_id|>", "[/THINK]")):
        assert name in pipeline
        pipeline = pipeline.replace(name, mark)
    (model / "tokenizer.json").write_text(pipeline, encoding="utf-8")
    (model / "chat_template.jinja").write_text(
        "{% for m in messages %}{{ m.content }}{% endfor %}"
        "{% if add_generation_prompt and thinks is not defined %}[THINK]{% endif %}"
    )
    with ApiProcess("--model", model) as process:
        yield process


def message(api: ApiProcess, **fields: Any) -> dict[str, Any]:
    body = ask("One day", max_tokens=12, **fields)
    whole = api.post("/v1/chat/completions", body).json()["choices"][0]["message"]
    streamed: dict[str, str] = {}
    for event in events_of(api.post("/v1/chat/completions", body | {"stream": True}))[:-1]:
        for name, text in event["choices"][0]["delta"].items():
            streamed[name] = streamed.get(name, "") + text
    assert streamed == {name: text for name, text in whole.items() if text is not None}
    answer: dict[str, Any] = whole
    return answer


def test_thoughts_come_as_reasoning_content(thinker: ApiProcess) -> None:
    thought = message(thinker)
    assert thought["content"] == ""
    assert thought["reasoning_content"]
    unsplit = message(thinker, reasoning_format="none")
    assert "reasoning_content" not in unsplit
    assert unsplit["content"].strip() == thought["reasoning_content"].strip()


def test_a_schema_holds_after_the_thought(thinker: ApiProcess) -> None:
    schema = {
        "type": "object",
        "properties": {"a": {"enum": [1]}},
        "required": ["a"],
        "additionalProperties": False,
    }
    wanted = {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}
    closes = {"logit_bias": {str(CLOSER): 100}, "response_format": wanted}
    assert message(thinker, **closes) == {"role": "assistant", "content": '{"a": 1}', "refusal": None}
    thinking = message(thinker, response_format=wanted)
    assert thinking["content"] == ""
    assert not thinking["reasoning_content"].startswith("{")
    without = message(
        thinker,
        response_format=wanted,
        chat_template_kwargs={"thinks": False},
        logit_bias={str(OPENER): -100},
    )
    assert json.loads(without["content"]) == {"a": 1}


def test_a_required_call_comes_after_the_thought(thinker: ApiProcess) -> None:
    tool = {"type": "function", "function": {"name": "a", "parameters": {"type": "object", "properties": {}}}}
    body = ask("One day", max_tokens=60, tools=[tool], tool_choice="required", logit_bias={str(CLOSER): 100})
    choice = thinker.post("/v1/chat/completions", body).json()["choices"][0]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["tool_calls"][0]["function"] == {"name": "a", "arguments": "{}"}
