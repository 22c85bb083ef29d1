"""Prompts without a template: the names of special tokens in them are these tokens, unless a request says otherwise."""

from __future__ import annotations

import pytest

from support.api_process import CHAT, MODEL, ApiProcess

PROMPT = "<|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>"


def tokens(api: ApiProcess, **fields: object) -> list[int]:
    answer: list[int] = api.post("/tokenize", {"prompt": PROMPT, **fields}).json()["tokens"]
    return answer


def test_tokenize_finds_special_tokens(api: ApiProcess) -> None:
    ids = tokens(api, add_special_tokens=False)
    assert (ids[0], ids[-1]) == (2045, 2047)
    assert ids == tokens(api, add_special_tokens=False, parse_special=True)
    assert tokens(api)[1:] == ids
    as_text = tokens(api, add_special_tokens=False, parse_special=False)
    assert max(as_text) < 2043
    assert len(as_text) > len(ids)


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/embeddings"])
def test_raw_prompts_count_special_tokens_once(api: ApiProcess, path: str) -> None:
    field = "prompt" if path == "/v1/completions" else "input"
    for parse_special in (None, True, False):
        body = {"model": MODEL, field: PROMPT, "parse_special": parse_special}
        used = api.post(path, body).json()["usage"]["prompt_tokens"]
        assert used == len(tokens(api, parse_special=parse_special))


def test_a_message_cannot_name_special_tokens(api: ApiProcess) -> None:
    messages = [{"role": "user", "content": PROMPT}]
    ids = api.post("/tokenize", {"messages": messages, "add_generation_prompt": False}).json()["tokens"]
    plain = [{"role": "user", "content": "x"}]
    expected = api.post("/tokenize", {"messages": plain, "add_generation_prompt": False}).json()["tokens"]
    assert [i for i in ids if i >= 2043] == [i for i in expected if i >= 2043]


def test_tokenize_counts_what_a_chat_would(api: ApiProcess) -> None:
    tool = {"type": "function", "function": {"name": "look_up", "description": "finds a word"}}
    conversation = {"messages": [{"role": "user", "content": "x"}], "tools": [tool]}
    count = api.post("/tokenize", conversation).json()["count"]
    used = api.post(CHAT, {**conversation, "max_tokens": 1}).json()["usage"]["prompt_tokens"]
    assert count == used
