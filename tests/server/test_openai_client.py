"""The official client drives a real server."""

from __future__ import annotations

import json
import math
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import openai
import pytest

from support.api_process import MODEL, ApiProcess, ask

SUM = "What is nine plus eight?"
ANSWER = "9 + 8 = 17."

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a city",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "enum": ["Paris", "Rome", "Oslo"]},
                "days": {"type": "integer", "minimum": 1, "maximum": 7},
            },
            "required": ["city", "days"],
            "additionalProperties": False,
        },
    },
}
TIME = {
    "type": "function",
    "function": {
        "name": "get_time",
        "parameters": {
            "type": "object",
            "properties": {"zone": {"enum": ["UTC", "CET"]}},
            "required": ["zone"],
            "additionalProperties": False,
        },
    },
}


def test_models(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == [MODEL]
    assert client.models.retrieve(MODEL).object == "model"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("another")


def test_chat(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(**ask(SUM))
    assert answer.object == "chat.completion"
    (choice,) = answer.choices
    assert (choice.message.role, choice.message.content, choice.finish_reason) == (
        "assistant",
        ANSWER,
        "stop",
    )
    assert choice.message.tool_calls is None
    usage = answer.usage
    assert usage is not None
    assert usage.completion_tokens == 9  # the end token among them
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens


def test_stream(client: openai.OpenAI) -> None:
    chunks = list(
        client.chat.completions.create(**ask(SUM, stream=True, stream_options={"include_usage": True}))
    )
    assert {chunk.object for chunk in chunks} == {"chat.completion.chunk"}
    assert len({(chunk.id, chunk.created, chunk.model) for chunk in chunks}) == 1
    assert chunks[0].choices[0].delta.role == "assistant"
    *parts, last, usage = chunks
    assert "".join(chunk.choices[0].delta.content or "" for chunk in parts) == ANSWER
    assert [chunk.choices[0].finish_reason for chunk in parts] == [None] * len(parts)
    assert last.choices[0].finish_reason == "stop"
    assert usage.choices == []
    assert usage.usage is not None
    assert usage.usage.completion_tokens == 9


def test_content_as_parts_and_roles(client: openai.OpenAI) -> None:
    parts = [{"type": "text", "text": "What is nine "}, {"type": "text", "text": "plus eight?"}]
    for first in (
        [],
        [{"role": "developer", "content": "Be brief."}],
        [{"role": "system", "content": "Be brief."}],
    ):
        messages = [*first, {"role": "user", "content": parts}]
        answer = client.chat.completions.create(model=MODEL, messages=messages, temperature=0)
        assert answer.choices[0].message.content == ANSWER


def test_max_tokens(client: openai.OpenAI) -> None:
    for field in ("max_tokens", "max_completion_tokens"):
        answer = client.chat.completions.create(**ask(SUM, **{field: 3}))
        assert answer.choices[0].finish_reason == "length"
        assert answer.usage is not None
        assert answer.usage.completion_tokens == 3


@pytest.mark.parametrize("stop", [" = ", ["7", "+ 8 ="], "8 ="])
def test_stop_strings_are_never_shown(client: openai.OpenAI, stop: str | list[str]) -> None:
    strings = [stop] if isinstance(stop, str) else stop
    wanted = min((ANSWER[: ANSWER.index(string)] for string in strings), key=len)
    answer = client.chat.completions.create(**ask(SUM, stop=stop))
    assert (answer.choices[0].message.content, answer.choices[0].finish_reason) == (wanted, "stop")
    chunks = list(client.chat.completions.create(**ask(SUM, stop=stop, stream=True)))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == wanted


def test_n_and_seed(client: openai.OpenAI) -> None:
    """Choices differ, a seed repeats them, and a choice is the answer to its own seed."""
    story = dict(ask("Tell me a story about a fox.", max_tokens=24), temperature=1.0)
    first = client.chat.completions.create(**story, n=3, seed=5)
    again = client.chat.completions.create(**story, n=3, seed=5)
    texts = [choice.message.content for choice in first.choices]
    assert [choice.index for choice in first.choices] == [0, 1, 2]
    assert len(set(texts)) > 1
    assert [choice.message.content for choice in again.choices] == texts
    assert client.chat.completions.create(**story, seed=7).choices[0].message.content == texts[2]
    assert first.usage is not None
    assert first.usage.completion_tokens == 72
    streamed = ["", "", ""]
    for chunk in client.chat.completions.create(**story, n=3, seed=5, stream=True):
        for choice in chunk.choices:
            streamed[choice.index] += choice.delta.content or ""
    assert streamed == texts


def test_logprobs(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(**ask(SUM, logprobs=True, top_logprobs=3))
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.content is not None
    assert "".join(token.token for token in logprobs.content) == ANSWER
    for token in logprobs.content:
        assert bytes(token.bytes or []).decode() == token.token
        assert len(token.top_logprobs) == 3
        best = token.top_logprobs[0]
        assert (best.token, best.logprob) == (token.token, token.logprob)  # greedy
        assert sum(math.exp(top.logprob) for top in token.top_logprobs) < 1 + 1e-6
    chunks = list(client.chat.completions.create(**ask(SUM, logprobs=True, stream=True)))
    told = [
        t
        for chunk in chunks
        for t in (chunk.choices[0].logprobs.content if chunk.choices[0].logprobs else [])
    ]
    assert "".join(token.token for token in told) == ANSWER


def test_logit_bias(client: openai.OpenAI, api: ApiProcess) -> None:
    ids = api.post("/tokenize", {"prompt": "9", "add_special_tokens": False}).json()["tokens"]
    answer = client.chat.completions.create(**ask(SUM, logit_bias={str(ids[0]): -100}))
    assert not (answer.choices[0].message.content or "").startswith("9")


def test_log_probabilities_of_a_prompt(client: openai.OpenAI) -> None:
    """Those that the model gave when it wrote the same text itself."""
    asked: dict[str, Any] = {"model": MODEL, "temperature": 0, "logprobs": 2}
    written = client.completions.create(prompt="Once upon a time", max_tokens=12, **asked).choices[0]
    assert written.logprobs is not None
    whole = "Once upon a time" + written.text
    for max_tokens in (0, 3):
        answer = client.completions.create(prompt=whole, max_tokens=max_tokens, echo=True, **asked)
        choice, n_prompt = answer.choices[0], answer.usage.prompt_tokens  # type: ignore[union-attr]
        assert choice.text.startswith(whole)
        got = choice.logprobs
        assert got is not None
        assert got.token_logprobs is not None
        assert got.top_logprobs is not None
        assert len(got.tokens or ()) == len(got.token_logprobs) == n_prompt + max_tokens
        assert "".join(got.tokens or ()) == choice.text
        assert (got.text_offset or [])[-1] == len(choice.text) - len((got.tokens or [])[-1])
        assert got.token_logprobs[0] is None
        assert got.top_logprobs[0] is None
        assert (got.tokens or [])[n_prompt - 12 : n_prompt] == written.logprobs.tokens
        ours = got.token_logprobs[n_prompt - 12 : n_prompt]
        assert ours == pytest.approx(written.logprobs.token_logprobs, abs=1e-4)
        assert got.top_logprobs[n_prompt - 1].keys() == written.logprobs.top_logprobs[-1].keys()  # type: ignore[index]
    stream = client.completions.create(prompt=[whole, "a"], max_tokens=1, echo=True, stream=True, **asked)
    parts = [chunk.choices[0] for chunk in stream]
    first = next(part for part in parts if part.index == 0)
    assert first.text == whole
    assert first.logprobs is not None
    assert len(first.logprobs.tokens or ()) == n_prompt


def test_completions(client: openai.OpenAI) -> None:
    answer = client.completions.create(
        model=MODEL, prompt="Once upon a time", max_tokens=12, temperature=0, logprobs=2
    )
    assert answer.object == "text_completion"
    choice = answer.choices[0]
    assert choice.finish_reason == "length"
    assert choice.text.startswith(", a young girl")
    logprobs = choice.logprobs
    assert logprobs is not None
    assert "".join(logprobs.tokens or []) == choice.text
    assert logprobs.text_offset == [sum(map(len, (logprobs.tokens or [])[:n])) for n in range(12)]
    echoed = client.completions.create(
        model=MODEL, prompt="Once upon a time", max_tokens=12, temperature=0, echo=True
    )
    assert echoed.choices[0].text == "Once upon a time" + choice.text
    streamed = client.completions.create(
        model=MODEL, prompt="Once upon a time", max_tokens=12, temperature=0, stream=True
    )
    assert "".join(chunk.choices[0].text for chunk in streamed) == choice.text


def test_completions_of_several_prompts(client: openai.OpenAI, api: ApiProcess) -> None:
    prompts = ["Once upon a time", "Hello world"]
    ids = [api.post("/tokenize", {"prompt": prompt}).json()["tokens"] for prompt in prompts]
    texts = []
    for given in (prompts, ids):
        answer = client.completions.create(model=MODEL, prompt=given, max_tokens=8, temperature=0, n=2)
        assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
        assert answer.choices[0].text == answer.choices[1].text != answer.choices[2].text
        assert answer.usage is not None
        assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (sum(map(len, ids)), 32)
        texts.append([choice.text for choice in answer.choices])
    assert texts[0] == texts[1]


def test_embeddings(client: openai.OpenAI) -> None:
    """The client asks for base64; numbers say the same. Texts of one topic are nearer to each other."""
    texts = ["The fox runs in the forest.", "The fox ran into the forest.", "Seven plus two is nine."]
    answer = client.embeddings.create(model=MODEL, input=texts)
    vectors = np.array([item.embedding for item in answer.data])
    assert vectors.shape == (3, 256)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)
    assert vectors[0] @ vectors[1] > vectors[0] @ vectors[2]
    numbers = client.embeddings.create(model=MODEL, input=texts[2], encoding_format="float")
    np.testing.assert_allclose(numbers.data[0].embedding, vectors[2], rtol=1e-4, atol=1e-5)
    assert answer.usage.prompt_tokens > 10


def test_json_schema(client: openai.OpenAI) -> None:
    schema = {
        "type": "object",
        "properties": {
            "animal": {"enum": ["fox", "bear", "owl"]},
            "age": {"type": "integer", "minimum": 1, "maximum": 99},
            "friends": {"type": "array", "items": {"enum": ["Mia", "Hugo"]}, "maxItems": 2},
        },
        "required": ["animal", "age", "friends"],
        "additionalProperties": False,
    }
    wanted = {"type": "json_schema", "json_schema": {"name": "pet", "schema": schema, "strict": True}}
    for seed in range(4):
        fields = dict(ask("Tell me about a pet.", response_format=wanted, seed=seed), temperature=1.5)
        answer = client.chat.completions.create(**fields)
        assert answer.choices[0].finish_reason == "stop"
        pet = json.loads(answer.choices[0].message.content or "")
        assert list(pet) == ["animal", "age", "friends"]
        assert pet["animal"] in ("fox", "bear", "owl")
        assert 1 <= pet["age"] <= 99
        assert set(pet["friends"]) <= {"Mia", "Hugo"}


def test_json_object(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        **ask("Tell me about a pet.", response_format={"type": "json_object"}, max_tokens=400)
    )
    text = answer.choices[0].message.content or ""
    assert text.startswith("{")
    if answer.choices[0].finish_reason == "stop":
        assert isinstance(json.loads(text), dict)


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "get_weather"}}])
def test_forced_tool_call(client: openai.OpenAI, choice: object) -> None:
    fields = ask(
        "What is the weather in Oslo?", tools=[WEATHER, TIME], tool_choice=choice, parallel_tool_calls=False
    )
    answer = client.chat.completions.create(**fields)
    message = answer.choices[0].message
    assert answer.choices[0].finish_reason == "tool_calls"
    assert message.content is None
    (call,) = message.tool_calls or []
    if choice != "required":
        assert call.function.name == "get_weather"
    arguments = json.loads(call.function.arguments)
    assert set(arguments) == ({"city", "days"} if call.function.name == "get_weather" else {"zone"})
    # as a stream: the same call, its arguments in pieces
    name, pieces = "", []
    for chunk in client.chat.completions.create(**fields, stream=True):
        for delta in chunk.choices[0].delta.tool_calls or []:
            assert delta.index == 0
            assert delta.function is not None
            if delta.id:
                assert delta.type == "function"
                name = delta.function.name or ""
            pieces.append(delta.function.arguments or "")
    assert (name, "".join(pieces)) == (call.function.name, call.function.arguments)
    assert len(pieces) > 2


def test_a_tool_result_goes_back(client: openai.OpenAI) -> None:
    fields = ask(
        "What is the weather in Oslo?", tools=[WEATHER], tool_choice="required", parallel_tool_calls=False
    )
    message = client.chat.completions.create(**fields).choices[0].message
    assert message.tool_calls
    result = {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": '{"sky": "blue"}'}
    messages = [*fields["messages"], message.model_dump(exclude_none=True), result]
    answer = client.chat.completions.create(model=MODEL, messages=messages, tools=[WEATHER], max_tokens=8)
    assert answer.choices[0].finish_reason in ("stop", "length", "tool_calls")
    assert answer.usage is not None
    assert answer.usage.prompt_tokens > 50


def test_tools_that_need_not_be_called(client: openai.OpenAI) -> None:
    for choice in ("auto", "none"):
        answer = client.chat.completions.create(**ask(SUM, tools=[TIME], tool_choice=choice, max_tokens=40))
        assert answer.choices[0].message.content
        assert answer.choices[0].message.tool_calls is None


def test_several_clients_at_once(api: ApiProcess) -> None:
    """Each gets the text that it gets alone."""
    questions = [
        f"What is {n} plus {m}?" for n in ("two", "three", "four", "five") for m in ("one", "six", "nine")
    ]

    def answer(question: str) -> str | None:
        with api.openai() as client:
            return client.chat.completions.create(**ask(question)).choices[0].message.content

    alone = [answer(question) for question in questions]
    with ThreadPoolExecutor(len(questions)) as pool:
        assert list(pool.map(answer, questions)) == alone


def test_second_turn_computes_only_new_tokens(client: openai.OpenAI, api: ApiProcess) -> None:
    messages = [{"role": "user", "content": "Tell me a story about a bear and an owl."}]
    first = client.chat.completions.create(model=MODEL, messages=messages, temperature=0)
    assert first.usage is not None
    before = api.metrics()
    messages += [
        {"role": "assistant", "content": first.choices[0].message.content or ""},
        {"role": "user", "content": "What was the name of the bear?"},
    ]
    second = client.chat.completions.create(model=MODEL, messages=messages, temperature=0, max_tokens=1)
    after = api.metrics()
    assert second.usage is not None
    assert second.usage.prompt_tokens_details is not None
    n_cached = second.usage.prompt_tokens_details.cached_tokens or 0
    n_known = first.usage.total_tokens - 1  # the end token never entered the cache
    assert n_known - 1 <= n_cached <= second.usage.prompt_tokens
    assert after["prompt_tokens_total"] - before["prompt_tokens_total"] == second.usage.prompt_tokens
    assert after["cached_prompt_tokens_total"] - before["cached_prompt_tokens_total"] == n_cached
