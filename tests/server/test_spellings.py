"""What other servers' clients send: constraints in all spellings, values that ask for nothing, no limit as -1."""

from __future__ import annotations

import json
from typing import Any

import pydantic
import pytest

from dllama.engine import SamplingOptions
from dllama.server.answer_schema import answer_schema
from dllama.server.bodies import parse_body
from dllama.server.errors import ApiError
from dllama.server.options import generation_options
from dllama.server.requests import ChatRequest, CompletionRequest, EmbeddingRequest, GenerationRequest
from support.api_process import MODEL, ApiProcess, ask, error_of

CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "x"}]}
SCHEMA = {"enum": ["yes", "no"]}
OBJECT = {"type": "object"}
KINDS = [(ChatRequest, CHAT), (CompletionRequest, {"prompt": "x"})]

SPELLINGS = [
    ({"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}}, SCHEMA),
    ({"response_format": {"type": "json_schema", "json_schema": {"schema": SCHEMA}}}, SCHEMA),
    ({"response_format": {"type": "json_schema", "schema": SCHEMA}}, SCHEMA),
    ({"response_format": {"type": "json_object", "schema": SCHEMA}}, SCHEMA),
    ({"response_format": {"type": "json_object"}}, OBJECT),
    ({"json_schema": SCHEMA}, SCHEMA),
    ({"json_schema": {}}, {}),
    ({"guided_json": SCHEMA}, SCHEMA),
    ({"guided_json": json.dumps(SCHEMA)}, SCHEMA),
    ({"structured_outputs": {"json": SCHEMA}}, SCHEMA),
    ({"structured_outputs": {"json": json.dumps(SCHEMA)}}, SCHEMA),
    ({"structured_outputs": {"json_object": True}}, OBJECT),
    ({"format": "json"}, OBJECT),
    ({"format": SCHEMA}, SCHEMA),
    ({"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {}}}}, {}),
    ({"response_format": {"type": "text"}, "format": "", "guided_json": None, "grammar": ""}, None),
    ({"structured_outputs": {}, "guided_regex": "", "guided_choice": [], "min_tokens": 0}, None),
]


def parsed(kind: type[pydantic.BaseModel], body: dict[str, Any]) -> Any:
    return parse_body(json.dumps(body).encode(), kind)


@pytest.mark.parametrize(("kind", "body"), KINDS, ids=["chat", "completion"])
@pytest.mark.parametrize(("fields", "schema"), SPELLINGS, ids=str)
def test_a_schema_in_every_spelling(
    kind: type[GenerationRequest], body: dict[str, Any], fields: dict[str, Any], schema: object
) -> None:
    wanted = answer_schema(parsed(kind, body | fields))
    assert (wanted.schema if wanted else None) == schema
    assert wanted is None or wanted.param == next(iter(fields))


@pytest.mark.parametrize(("kind", "body"), KINDS, ids=["chat", "completion"])
@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"grammar": 'root ::= "yes"'}, "grammar"),
        ({"grammar": {"type": "json", "value": SCHEMA}}, "grammar"),
        ({"guided_grammar": "x"}, "guided_grammar"),
        ({"guided_regex": "a+"}, "guided_regex"),
        ({"guided_choice": ["a"]}, "guided_choice"),
        ({"regex": "a+"}, "regex"),
        ({"ebnf": "x"}, "ebnf"),
        ({"min_tokens": 5}, "min_tokens"),
        ({"bad_words": ["x"]}, "bad_words"),
        ({"chat_template": "{{ messages }}"}, "chat_template"),
        ({"structured_outputs": {"regex": "a+"}}, "structured_outputs.regex"),
        ({"structured_outputs": {"choice": ["a"]}}, "structured_outputs.choice"),
        ({"response_format": {"type": "grammar", "grammar": "x"}}, "response_format"),
        ({"format": "xml"}, "format"),
        ({"guided_json": "{"}, "guided_json"),
        ({"guided_json": "[1]"}, "guided_json"),
        ({"guided_json": SCHEMA, "format": "json"}, "format"),
        ({"stop": ["x"] * 257}, "stop"),
        ({"stop": ["x" * 1000] * 17}, "stop"),
        ({"max_tokens": -2}, "max_tokens"),
        ({"top_k": -2}, "top_k"),
    ],
    ids=str,
)
def test_what_cannot_be_done_is_refused_by_name(
    kind: type[GenerationRequest], body: dict[str, Any], fields: dict[str, Any], param: str
) -> None:
    with pytest.raises(ApiError) as caught:
        answer_schema(parsed(kind, body | fields))
    assert caught.value.status == 400
    assert caught.value.param == param
    assert param in str(caught.value)


@pytest.mark.parametrize(
    "fields",
    [
        {"functions": [], "function_call": "none", "audio": {}, "web_search_options": None},
        {"max_tokens": 16.0, "n": 1.0, "seed": 7.0, "top_k": 5.0, "max_completion_tokens": 16.0},
        {"logprobs": False, "top_logprobs": 0},
        {"stop": []},
        {"stop": [f"stop {number}" for number in range(200)]},
        {"logit_bias": {}, "tools": [], "tool_choice": "none"},
    ],
    ids=lambda fields: ", ".join(fields),
)
def test_values_that_ask_for_nothing_pass(api: ApiProcess, fields: dict[str, Any]) -> None:
    answer = api.post("/v1/chat/completions", ask("What is two plus two?") | fields)
    assert answer.status_code == 200, answer.text
    assert answer.json()["choices"][0]["message"]["content"] == "2 + 2 = 4."


def test_empty_fields_of_a_completion_pass() -> None:
    body = {"prompt": "x", "suffix": "", "best_of": 1, "echo": False, "logprobs": None, "max_tokens": 16.0}
    assert parsed(CompletionRequest, body).max_tokens == 16
    assert parsed(EmbeddingRequest, {"input": "x", "dimensions": 8.0}).dimensions == 8
    for field, value in {"suffix": "x", "best_of": 2}.items():
        with pytest.raises(ApiError, match=f"^{field}: not supported"):
            parsed(CompletionRequest, {"prompt": "x", field: value})


@pytest.mark.parametrize(("kind", "body"), KINDS, ids=["chat", "completion"])
def test_no_limit_is_minus_one(kind: type[GenerationRequest], body: dict[str, Any]) -> None:
    request = parsed(kind, body | {"max_tokens": -1, "top_k": -1})
    options = generation_options(
        request, SamplingOptions(topk=3), choice=0, max_tokens=request.max_tokens, n_logprobs=None
    )
    assert options.max_tokens is None
    assert options.sampling.topk == 0


def test_a_text_without_limit_fills_the_context(api: ApiProcess) -> None:
    body = {"prompt": "Once", "max_tokens": -1, "ignore_eos": True, "temperature": 0}
    answer = api.post("/v1/completions", body).json()
    assert answer["choices"][0]["finish_reason"] == "length"
    assert answer["usage"]["total_tokens"] == api.get("/api/cluster").json()["max_model_len"]


@pytest.mark.parametrize("fields", [{"guided_json": SCHEMA}, {"format": SCHEMA}], ids=str)
def test_completions_follow_schemas_too(api: ApiProcess, fields: dict[str, Any]) -> None:
    answer = api.post("/v1/completions", {"prompt": ["Is it?", "Or so?"], "n": 2, **fields}).json()
    assert [json.loads(choice["text"]) in ("yes", "no") for choice in answer["choices"]] == [True] * 4


def test_an_unsound_schema_of_another_spelling(api: ApiProcess) -> None:
    answer = api.post("/v1/chat/completions", ask("x", guided_json={"type": "nonsense"}))
    assert error_of(answer, 400)["param"] == "guided_json"


def test_embeddings_of_fewer_dimensions(api: ApiProcess) -> None:
    def vector(**fields: object) -> list[float]:
        answer = api.post("/v1/embeddings", {"model": MODEL, "input": "a fox", **fields})
        assert answer.status_code == 200, answer.text
        return [float(x) for x in answer.json()["data"][0]["embedding"]]

    whole, first = vector(), vector(dimensions=8)
    length = sum(x * x for x in whole[:8]) ** 0.5
    assert first == pytest.approx([x / length for x in whole[:8]], rel=1e-5)
    assert vector(dimensions=len(whole)) == pytest.approx(whole, rel=1e-5)
    answer = api.post("/v1/embeddings", {"input": "a fox", "dimensions": len(whole) + 1})
    assert error_of(answer, 400)["param"] == "dimensions"


def test_arguments_of_a_tool_are_an_object() -> None:
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "string"}}}
    with pytest.raises(ApiError, match="object") as caught:
        parsed(ChatRequest, CHAT | {"tools": [tool]})
    assert caught.value.param == "tools[0].function.parameters"
    for parameters in ({}, {"properties": {}}, {"type": "object"}):
        tool["function"] = {"name": "f", "parameters": parameters}
        assert parsed(ChatRequest, CHAT | {"tools": [tool]}).tools
