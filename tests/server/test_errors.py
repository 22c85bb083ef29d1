"""What a client does wrong is told in OpenAI's shape, with the right status, and ends nothing."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from typing import Any

import openai
import pytest
import requests

from dllama.errors import (
    ContextFullError,
    DllamaError,
    ModelFileError,
    NumericalError,
    PeerLostError,
    QueueFullError,
    SystemLimitError,
    TokenizerError,
    UsageError,
)
from dllama.server.errors import ApiError, api_error
from support.api_process import CHAT, MODEL, ApiProcess, ask, error_of, events_of
from support.endless import long_context
from support.processes import TIMEOUT_S, run_dllama

KEYS = ("key-one", "key-two")


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"", "no JSON"),
        (b"{", "no JSON"),
        (b"\xff\xfe", "no JSON"),
        (b'{"messages": [{"role": "user", "content": "\\ud800"}]}', "no JSON"),
        (b"[" * 100_000, "no JSON"),
        (b"null", "the body: "),
        (b"[]", "the body: "),
    ],
)
def test_malformed_bodies(api: ApiProcess, body: bytes, says: str) -> None:
    headers = {"Content-Type": "application/json"}
    response = requests.post(api.url + CHAT, data=body, headers=headers, timeout=TIMEOUT_S)
    assert says in error_of(response, 400)["message"]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"messages": None}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "king", "content": "x"}]}, "messages[0]"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": 3}]}, "messages[0].content"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
            "messages[0].content[0].type",
        ),
        ({"temperature": "1"}, "temperature"),
        ({"temperature": 3}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"top_p": -0.1}, "top_p"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 1.5}, "max_tokens"),
        ({"n": 1000}, "n"),
        ({"stop": ""}, "stop"),
        ({"stop": [1]}, "stop[0]"),
        ({"logit_bias": {"x": 1}}, "logit_bias"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"tools": [{"type": "function"}]}, "tools[0].function"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tool_choice": {"type": "function"}}, "tool_choice.function"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].tool_call_id"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": 3}}},
            "response_format.json_schema.schema",
        ),
        ({"functions": [{"name": "x"}]}, "functions"),
        ({"response_format": {"type": "xml"}}, "response_format"),
        (
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "x", "schema": {"type": "y"}},
                }
            },
            "response_format",
        ),
        ({"chat_template_kwargs": {"messages": []}}, "chat_template_kwargs"),
    ],
    ids=str,
)
def test_wrong_fields(api: ApiProcess, fields: dict[str, Any], param: str) -> None:
    data = json.dumps(ask("x") | fields)
    headers = {"Content-Type": "application/json"}
    error = error_of(requests.post(api.url + CHAT, data=data, headers=headers, timeout=TIMEOUT_S), 400)
    assert error["param"] == param
    assert error["type"] == "invalid_request_error"


def test_token_ids_that_do_not_exist(api: ApiProcess) -> None:
    error = error_of(api.post("/v1/completions", {"prompt": [1, 99999]}), 400)
    assert error["message"] == "prompt: the model has no token 99999, only 0 to 2047"
    error_of(api.post("/v1/embeddings", {"input": [99999]}), 400)
    error_of(api.post("/detokenize", {"tokens": [99999]}), 400)
    error_of(api.post(CHAT, ask("x", logit_bias={"99999": 1})), 400)


@pytest.mark.parametrize(("path", "field"), [("/v1/completions", "prompt"), ("/v1/embeddings", "input")])
@pytest.mark.parametrize("element", ["x", [1]], ids=["text", "ids"])
def test_more_texts_than_a_request_may_have(api: ApiProcess, path: str, field: str, element: object) -> None:
    error = error_of(api.post(path, {field: [element] * 1000}), 400)
    assert (error["param"], error["code"]) == (field, "too_long")


def test_a_prompt_that_is_too_long(api: ApiProcess) -> None:
    for stream in (False, True):
        error = error_of(api.post(CHAT, ask("fox " * 2000, stream=stream)), 400)
        assert error["code"] == "context_length_exceeded"
        assert " 1024" in error["message"]
        assert int(error["message"].split(" tokens")[0].split()[-1]) > 2000
    error_of(api.post("/v1/embeddings", {"input": "fox " * 2000}), 400)


def test_unknown_things(api: ApiProcess, client: openai.OpenAI) -> None:
    error_of(api.get("/v1/nothing"), 404)
    error_of(api.post("/v1/responses", {}), 404)
    response = api.get(CHAT)
    error_of(response, 405)
    assert response.headers["Allow"] == "POST"


def test_other_types_and_sizes_of_body(api: ApiProcess) -> None:
    """A type that web pages may send without asking is refused; so is what is too large, before it is all there."""
    for headers in ({"Content-Type": "text/plain"}, {"Content-Type": ""}):
        response = requests.post(
            api.url + CHAT, data=json.dumps(ask("x")), headers=headers, timeout=TIMEOUT_S
        )
        error_of(response, 415)
    big = json.dumps(ask("x" * (5 << 20)))
    headers = {"Content-Type": "application/json; charset=utf-8"}
    try:
        response = requests.post(api.url + CHAT, data=big, headers=headers, timeout=TIMEOUT_S)
    except requests.ConnectionError:
        pass  # closed while we still wrote
    else:
        error_of(response, 413)
    with socket.create_connection(("127.0.0.1", int(api.url.rpartition(":")[2]))) as connection:
        connection.sendall(
            b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        )
        connection.sendall(b"Content-Length: 99999999999\r\n\r\n")
        connection.settimeout(TIMEOUT_S)
        assert connection.recv(100).startswith(b"HTTP/1.1 413")
    assert api.post(CHAT, ask("What is two plus two?", max_tokens=2)).status_code == 200


@pytest.mark.parametrize(
    "given", [b"\x00\x01\x02 garbage\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"POST " + b"x" * 100_000]
)
def test_what_is_no_http(api: ApiProcess, given: bytes) -> None:
    with socket.create_connection(("127.0.0.1", int(api.url.rpartition(":")[2]))) as connection:
        connection.settimeout(TIMEOUT_S)
        try:
            connection.sendall(given)
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(1000):
                pass
        except ConnectionError:
            pass
    assert api.get("/health").json() == {"status": "ok", "reason": None}


@pytest.fixture(scope="module")
def guarded() -> Iterator[ApiProcess]:
    """With keys, one text at a time and a page of its own elsewhere."""
    arguments = [part for key in KEYS for part in ("--api-key", key)]
    with ApiProcess(
        *long_context(), *arguments, "--parallel", 1, "--cors-origin", "https://chat.example.org"
    ) as process:
        yield process


def test_other_web_sites(guarded: ApiProcess, api: ApiProcess) -> None:
    asking = {"Origin": "https://chat.example.org", "Access-Control-Request-Method": "POST"}
    asking["Access-Control-Request-Headers"] = "authorization,content-type"
    allowed = requests.options(guarded.url + CHAT, headers=asking, timeout=TIMEOUT_S)
    assert allowed.headers["Access-Control-Allow-Origin"] == "https://chat.example.org"
    for url, origin in ((guarded.url, "https://evil.example"), (api.url, "https://chat.example.org")):
        refused = requests.options(url + CHAT, headers=asking | {"Origin": origin}, timeout=TIMEOUT_S)
        assert "Access-Control-Allow-Origin" not in refused.headers


def test_a_full_queue(guarded: ApiProcess) -> None:
    """One text at work and 16 that wait; the next is sent away, and there is room when others go."""
    headers = {"Authorization": f"Bearer {KEYS[0]}"}
    endless = ask("Tell me a story.", ignore_eos=True, stream=True)
    client = guarded.openai(KEYS[0])  # it takes a while to be made, and texts end
    waiting = []
    try:
        for _ in range(17):
            waiting.append(guarded.post(CHAT, endless, headers=headers, stream=True))
            assert waiting[-1].status_code == 200
        refused = guarded.post(CHAT, ask("x"), headers=headers)
        assert error_of(refused, 429)["code"] == "queue_full"
        assert int(refused.headers["Retry-After"]) >= 1
        with pytest.raises(openai.RateLimitError):
            client.chat.completions.create(**ask("x"))
    finally:
        client.close()
        for response in waiting:
            response.close()
    response = guarded.post(CHAT, ask("What is two plus two?", stream=True, max_tokens=3), headers=headers)
    assert events_of(response)[-1] == "[DONE]"


def test_wrong_flags() -> None:
    for flags, says in (
        (["--port", 70000], "--port: 70000 is no port"),
        (["--chat-template", "x"], "no chat template"),
    ):
        done = run_dllama("api", *flags, "--model-name", MODEL)
        assert done.code in (1, 2)
        assert says in done.error_line


def test_a_port_in_use(api: ApiProcess) -> None:
    done = run_dllama("api", "--port", api.url.rpartition(":")[2])
    assert done.code == 2
    assert "is in use" in done.error_line


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (UsageError("x"), 400),
        (TokenizerError("x"), 400),
        (ContextFullError("x"), 400),
        (ApiError("x", status=418), 418),
        (QueueFullError("x", 2.5), 429),
        (DllamaError("the request failed: KeyError: 1"), 500),
        (ModelFileError("the file was overwritten"), 500),
        (NumericalError("x"), 500),
        (PeerLostError("x"), 503),
        (SystemLimitError("x"), 503),
    ],
    ids=lambda value: type(value).__name__,
)
def test_faults_that_are_not_the_clients_are_not_told_as_its_own(error: DllamaError, status: int) -> None:
    told = api_error(error)
    assert told.status == status
    assert (told.body.error.type == "server_error") is (status >= 500)
    assert ("Retry-After" in told.headers) is (status in (429, 503))
