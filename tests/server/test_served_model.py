"""What the server says of its model: names, length, settings; and what a request gets that says nothing."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.api_process import MODEL, ApiProcess, ask, error_of
from support.processes import DEMO_MODEL

CHAT = "/v1/chat/completions"


@pytest.fixture(scope="module")
def suggesting(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo model with makers who suggest something else."""
    directory = tmp_path_factory.mktemp("suggesting") / "model"
    shutil.copytree(DEMO_MODEL, directory)
    path = directory / "generation_config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | {"temperature": 1.9, "top_p": 0.99, "top_k": 1}))
    return directory


@pytest.fixture(scope="module")
def strict(suggesting: Path) -> Iterator[ApiProcess]:
    with ApiProcess("--model", suggesting, "--temperature", 1.25, "--strict-model") as process:
        yield process


def test_an_unknown_model_is_answered_with_a_warning(api: ApiProcess) -> None:
    for body in (ask("What is two plus two?"), ask("What is two plus two?", stream=True)):
        plain = api.post(CHAT, body)
        other = api.post(CHAT, body | {"model": 'gpt-4\r\n"ö'})
        assert "Warning" not in plain.headers
        assert other.status_code == 200
        assert other.headers["Warning"].startswith("299 dllama \"there is no model 'gpt-4")
        assert f"'{MODEL}' has answered" in other.headers["Warning"]
    for path, body in (("/v1/embeddings", {"input": "x"}), ("/tokenize", {"prompt": "x"})):
        assert "Warning" in api.post(path, body | {"model": "x" * 10_000}).headers
    error_of(api.get("/v1/models/another"), 404)


def test_a_strict_server_refuses_unknown_models(strict: ApiProcess) -> None:
    assert error_of(strict.post(CHAT, ask("x") | {"model": "another"}), 404)["code"] == "model_not_found"
    for name in ("\x1b" * 200, "\u202e" * 200, "x" * 10_000):
        message = error_of(strict.post(CHAT, ask("x") | {"model": name}), 404)["message"]
        assert message.isprintable()
        assert len(message) < 250
    assert strict.post(CHAT, ask("x", max_tokens=1)).status_code == 200


def test_the_length_of_the_context_is_told(api: ApiProcess) -> None:
    length = api.get("/api/cluster").json()["max_model_len"]
    (listed,) = api.get("/v1/models").json()["data"]
    assert listed == api.get(f"/v1/models/{MODEL}").json()
    assert listed["max_model_len"] == length
    assert api.get("/props").json()["default_generation_settings"]["n_ctx"] == length


def test_version_props_and_icon(api: ApiProcess) -> None:
    assert api.get("/version").json()["version"]
    props = api.get("/props").json()
    assert props["total_slots"] == 8
    assert "messages" in props["chat_template"]
    icon = api.get("/favicon.ico")
    assert icon.status_code == 200
    assert icon.headers["Content-Type"].startswith("image/svg+xml")


def test_chats_are_sampled_as_the_makers_suggest(strict: ApiProcess) -> None:
    """But for what the command line says; and completions as without suggestions."""
    params = strict.get("/props").json()["default_generation_settings"]["params"]
    assert (params["temperature"], params["top_p"], params["top_k"]) == (1.25, 0.99, 1)
    story = {"model": MODEL, "messages": [{"role": "user", "content": "Tell me a story."}], "max_tokens": 40}
    greedy, suggested, free = (
        strict.post(CHAT, story | fields).json()["choices"][0]["message"]["content"]
        for fields in ({"temperature": 0}, {"seed": 5}, {"seed": 5, "top_k": -1})
    )
    assert suggested == greedy  # the one likeliest token is drawn, however hot
    assert free != greedy
    prompt = {"model": MODEL, "prompt": "Once upon a time", "max_tokens": 40}
    texts = [
        strict.post("/v1/completions", prompt | fields).json()["choices"][0]["text"]
        for fields in ({"temperature": 0}, {"seed": 5})
    ]
    assert texts[0] != texts[1]
