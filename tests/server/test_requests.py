"""Bodies that are wrong in a hundred thousand places cost no more than those that are wrong in one."""

from __future__ import annotations

import json
import tracemalloc

import pydantic
import pytest

from dllama.server.bodies import parse_body
from dllama.server.errors import ApiError
from dllama.server.requests import (
    ChatRequest,
    CompletionRequest,
    DetokenizeRequest,
    EmbeddingRequest,
    TokenizeRequest,
)

N = 100_000
CHAT = {"messages": [{"role": "user", "content": "x"}]}


@pytest.mark.parametrize(
    ("kind", "body", "says"),
    [
        (ChatRequest, {"messages": [{}] * N}, "messages[0]: "),
        (ChatRequest, {"messages": [1] * N}, "messages[0]: "),
        (ChatRequest, {"messages": CHAT["messages"] * N}, "messages: List should have at most 16384 items"),
        (
            TokenizeRequest,
            {"messages": CHAT["messages"] * N},
            "messages: List should have at most 16384 items",
        ),
        (ChatRequest, {"messages": [{"role": "user", "content": [1] * N}]}, "messages[0].content[0]: "),
        (
            ChatRequest,
            {"messages": [{"role": "assistant", "tool_calls": [1] * N}]},
            "messages[0].tool_calls[0]: ",
        ),
        (ChatRequest, {**CHAT, "stop": [1] * N}, "stop[0]: "),
        (ChatRequest, {**CHAT, "tools": [1] * N}, "tools[0]: "),
        (ChatRequest, {**CHAT, "logit_bias": {str(i): "x" for i in range(N)}}, "logit_bias: the bias of 0 "),
        (CompletionRequest, {"prompt": [None] * N}, "prompt[0]: "),
        (CompletionRequest, {"prompt": [[]] * N}, "prompt[0]: "),
        (CompletionRequest, {"prompt": [[1.5] * N]}, "prompt[0][0]: Input should be a valid integer"),
        (CompletionRequest, {"prompt": [1, *[-1] * N]}, "prompt[1]: Input should be greater than"),
        (CompletionRequest, {"prompt": ["x", *[3] * N]}, "prompt[1]: Input should be a valid string"),
        (CompletionRequest, {"prompt": ["x"] * 17}, "prompt: List should have at most 16 items"),
        (EmbeddingRequest, {"input": ["x"] * 257}, "input: List should have at most 256 items"),
        (EmbeddingRequest, {"input": [""] * N}, "input[0]: "),
        (ChatRequest, {"messages": [{"role": "k" * N}]}, "messages[0]: "),
        (TokenizeRequest, {"messages": [{}] * N}, "messages[0]: "),
        (DetokenizeRequest, {"tokens": [""] * N}, "tokens[0]: "),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)
def test_the_first_wrong_element_is_told(kind: type[pydantic.BaseModel], body: object, says: str) -> None:
    with pytest.raises(ApiError) as caught:
        parse_body(json.dumps(body).encode(), kind)
    assert str(caught.value).startswith(says)
    assert len(str(caught.value)) < 1100
    reason = caught.value.__cause__
    assert isinstance(reason, pydantic.ValidationError)
    assert reason.error_count() < 10


@pytest.mark.parametrize("digits", [4000, 5000, 100_000])
@pytest.mark.parametrize(
    "field",
    [
        '"logit_bias": {"%s": 1}',
        '"seed": %s',
        '"temperature": %s',
        '"max_tokens": %s',
        '"top_k": -%s',
        '"logit_bias": {"1": %s}',
    ],
)
def test_numbers_of_many_digits(field: str, digits: int) -> None:
    """Python turns 4300 digits into a number, and refuses more."""
    body = '{"messages": [{"role": "user", "content": "x"}], ' + field.replace("%s", "9" * digits) + "}"
    with pytest.raises(ApiError) as caught:
        parse_body(body.encode(), ChatRequest)
    assert caught.value.status == 400
    assert len(str(caught.value)) < 200


def test_biases() -> None:
    wanted = {"7": -100, "10": 0.5}
    assert ChatRequest.model_validate({**CHAT, "logit_bias": wanted}).logit_bias == wanted
    for wrong in ({"7": True}, {"7": 101}, {"7": float("nan")}, {"-7": 1}, {"²": 1}, {"": 1}):
        with pytest.raises(pydantic.ValidationError):
            ChatRequest.model_validate({**CHAT, "logit_bias": wrong})


def test_what_clients_wrote_is_kept_by_nobody() -> None:
    """pydantic keeps short strings for the next time, 16384 of them, unless it is told not to."""

    def parse(numbers: range) -> None:
        for number in numbers:
            parse_body(
                json.dumps({"messages": [{"role": "user", "content": f"hello {number}"}]}).encode(),
                ChatRequest,
            )

    parse(range(100))
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        parse(range(1000, 1400))
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert after - before < 400 * 20  # a kept string takes 59 bytes
