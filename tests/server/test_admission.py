"""What is too long is refused by its length alone, and nothing is worked out for a request that finds no place."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from typing import Any

import pytest
import requests
from hypothesis import given, settings
from hypothesis import strategies as st

from dllama.tokenizer import load_tokenizer
from dllama.tokenizer.fit import longest_text_bytes
from support.api_process import CHAT, ApiProcess, ask, error_of
from support.processes import DEMO_MODEL, TIMEOUT_S

COMPLETIONS, EMBEDDINGS, TOKENIZE = (
    "/v1/completions",
    "/v1/embeddings",
    "/tokenize",
)
N_BYTES = 3_900_000
WORDS = "the quick brown fox " * (N_BYTES // 20)
IDS = [7] * (N_BYTES // 3)

TOO_LONG = {
    "completion": (COMPLETIONS, {"prompt": WORDS}),
    "one word": (COMPLETIONS, {"prompt": "a" * N_BYTES}),
    "completions": (COMPLETIONS, {"prompt": [WORDS[: N_BYTES // 16]] * 16}),
    "ids": (COMPLETIONS, {"prompt": IDS}),
    "lists of ids": (COMPLETIONS, {"prompt": [IDS[: len(IDS) // 16]] * 16}),
    "chat": (CHAT, ask(WORDS)),
    "parts": (
        CHAT,
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "a fox"}] * 90_000}]},
    ),
    "messages": (CHAT, {"messages": [{"role": "user", "content": WORDS[: N_BYTES // 100]}] * 100}),
    "tools": (
        CHAT,
        {**ask("x"), "tools": [{"type": "function", "function": {"name": "f", "description": WORDS}}]},
    ),
    "embedding": (EMBEDDINGS, {"input": WORDS}),
    "embeddings": (EMBEDDINGS, {"input": [WORDS[: N_BYTES // 256]] * 256}),
    "ids to embed": (EMBEDDINGS, {"input": IDS}),
    "tokenize": (TOKENIZE, {"prompt": WORDS}),
    "tokenize a chat": (TOKENIZE, {"messages": [{"role": "user", "content": WORDS}]}),
    "detokenize": ("/detokenize", {"tokens": IDS}),
}


@functools.cache
def body_of(name: str) -> bytes:
    return json.dumps(TOO_LONG[name][1], separators=(",", ":")).encode()


@pytest.fixture(scope="module")
def api() -> Iterator[ApiProcess]:
    """One text at a time, and sixteen that wait."""
    with ApiProcess("--parallel", 1) as process:
        yield process


def post(api: ApiProcess, name: str) -> requests.Response:
    headers = {"Content-Type": "application/json"}
    return requests.post(api.url + TOO_LONG[name][0], data=body_of(name), headers=headers, timeout=TIMEOUT_S)


@pytest.mark.slow
def test_long_texts_cost_no_memory(api: ApiProcess) -> None:
    """Ids of one text of 4 MB took half a GB, of which most stayed."""
    assert api.post(COMPLETIONS, {"prompt": "x", "max_tokens": 1}).status_code == 200
    before = api.process.memory_info().rss
    for name in TOO_LONG:
        error = error_of(post(api, name), 400)
        assert error["code"] == "context_length_exceeded", name
        assert "the context 1024" in error["message"], name
    assert api.process.memory_info().rss - before < 200e6


def test_no_work_is_done_for_a_request_that_finds_no_place(api: ApiProcess) -> None:
    """A text that would be found to be too long, once it is ids, is not even looked at."""
    endless = ask("Tell me a story.", ignore_eos=True, stream=True)
    nearly_too_long = {"prompt": "a " * 3000}
    assert error_of(api.post(COMPLETIONS, nearly_too_long), 400)["code"] == "context_length_exceeded"
    waiting = []
    try:
        for _ in range(17):
            waiting.append(api.post(CHAT, endless, stream=True))
        for path, body in (
            (COMPLETIONS, nearly_too_long),
            (CHAT, ask("a " * 3000)),
            (EMBEDDINGS, {"input": "a " * 3000}),
            (TOKENIZE, {"prompt": "a " * 3000}),
        ):
            refused = api.post(path, body)
            assert error_of(refused, 429)["code"] == "queue_full"
            assert int(refused.headers["Retry-After"]) >= 1
    finally:
        for response in waiting:
            response.close()


def test_refused_requests_give_their_places_back(api: ApiProcess) -> None:
    for _ in range(20):
        error_of(api.post(COMPLETIONS, {"prompt": "a " * 3000}), 400)
        error_of(api.post(CHAT, ask("x", logit_bias={"99999": 1})), 400)
        error_of(api.post(EMBEDDINGS, {"input": ["a fox", "a " * 3000]}), 400)
        assert api.post(EMBEDDINGS, {"input": ["a fox", "a hen", "a pig"]}).status_code == 200
        assert api.post(TOKENIZE, {"prompt": "a fox"}).status_code == 200


def test_more_texts_than_there_are_places(api: ApiProcess) -> None:
    """To try again later would not help."""
    error = error_of(api.post(COMPLETIONS, {"prompt": ["a", "b"], "n": 16}), 400)
    assert error["message"] == "32 texts at once are more than the 17 that can run or wait here"


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=60) | st.sampled_from([" " * 500, "\n" * 90, "said" * 30, "<|im_start|>" * 9]))
def test_no_text_is_longer_than_its_tokens_at_their_longest(text: str) -> None:
    tokenizer = load_demo()
    assert len(text.encode()) <= longest_text_bytes(tokenizer, len(tokenizer.encode(text)))


@functools.cache
def load_demo() -> Any:
    return load_tokenizer(DEMO_MODEL)
