"""Where a text ends: at the token that the chat template writes after answers, and where a request says."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.api_process import MODEL, ApiProcess, ask
from support.processes import DEMO_MODEL, run_well

END_OF_TEXT, END_OF_TURN = 2044, 2047


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo model, whose settings name another end than its template writes."""
    model = tmp_path_factory.mktemp("ends") / "model"
    shutil.copytree(DEMO_MODEL, model)
    for name, values in {
        "tokenizer_config.json": {"eos_token": "<|end_of_text|>"},
        "generation_config.json": {"eos_token_id": [END_OF_TEXT]},
    }.items():
        settings = json.loads((model / name).read_bytes()) | values
        (model / name).write_text(json.dumps(settings))
    return model


@pytest.fixture(scope="module")
def forgetful(model: Path) -> Iterator[ApiProcess]:
    with ApiProcess("--model", model) as process:
        yield process


def choice(api: ApiProcess, path: str, body: dict[str, Any]) -> dict[str, Any]:
    answer: dict[str, Any] = api.post(path, body).json()["choices"][0]
    return answer


def test_a_chat_ends_where_its_template_ends_answers(forgetful: ApiProcess, api: ApiProcess) -> None:
    body = ask("What are you?", max_tokens=60)
    wanted = choice(api, "/v1/chat/completions", body)
    assert wanted["finish_reason"] == "stop"
    assert choice(forgetful, "/v1/chat/completions", body) == wanted


def test_a_schema_ends_there_too(forgetful: ApiProcess) -> None:
    """Digits may go on: the end token has to be among those that the grammar allows."""
    wanted = {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "integer"}}}
    body = ask("2 + 3?", max_tokens=9, response_format=wanted, logit_bias={str(END_OF_TURN): 50})
    answer = choice(forgetful, "/v1/chat/completions", body)
    assert answer["finish_reason"] == "stop"
    assert int(answer["message"]["content"]) >= 0


def test_a_chat_in_the_terminal_ends_there(model: Path) -> None:
    flags = ["--nthreads", 1, "--temperature", 0]
    wanted = run_well("chat", *flags, stdin="What are you?\n").out
    assert run_well("chat", "--model", model, *flags, stdin="What are you?\n").out == wanted


@pytest.mark.parametrize(
    "fields",
    [
        {"stop": ["<|eot_id|>"]},
        {"stop_token_ids": [END_OF_TURN]},
        {"stop_token_ids": [END_OF_TURN], "ignore_eos": True},
    ],
)
def test_raw_text_ends_where_a_request_says(forgetful: ApiProcess, fields: dict[str, Any]) -> None:
    prompt = "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nWhat are you?<|eot_id|>"
    prompt += "<|start_header_id|>assistant<|end_header_id|>\n\n"
    body = {"model": MODEL, "prompt": prompt, "temperature": 0, "max_tokens": 60}
    assert choice(forgetful, "/v1/completions", body)["finish_reason"] == "length"
    answer = choice(forgetful, "/v1/completions", body | fields)
    chat = choice(forgetful, "/v1/chat/completions", ask("What are you?", max_tokens=60))
    assert (answer["finish_reason"], answer["text"]) == ("stop", chat["message"]["content"])
