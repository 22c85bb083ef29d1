"""Who may ask: keys of all kinds of characters, from the command line and from the environment."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from support.api_process import CHAT, ApiProcess, ask, error_of
from support.processes import run_dllama

KEYS = ("key-one", "key-two", "k\xf6nig", "ключ", "clé\xe0")


@pytest.fixture(scope="module")
def guarded() -> Iterator[ApiProcess]:
    with ApiProcess(*[part for key in KEYS for part in ("--api-key", key)]) as process:
        yield process


def test_keys(guarded: ApiProcess) -> None:
    for key in KEYS[:2]:  # the official client sends no others
        with guarded.openai(key) as client:
            assert client.models.list().data
    for headers in (
        {},
        {"Authorization": "Bearer nope"},
        {"Authorization": "Basic a2V5"},
        {"Authorization": "Bearer"},
    ):
        for path in ("/v1/models", "/api/cluster", "/metrics"):
            response = guarded.get(path, headers=headers)
            assert error_of(response, 401)["type"] == "authentication_error"
            assert response.headers["WWW-Authenticate"] == "Bearer"
    error_of(guarded.post(CHAT, ask("x")), 401)
    error_of(guarded.post(CHAT, ask("x"), headers={"Authorization": "Bearer k\xf6nigin"}), 401)
    for public in ("/", "/health", "/openapi.json"):
        assert guarded.get(public).status_code == 200
    scheme = guarded.get("/openapi.json").json()["components"]["securitySchemes"]
    assert scheme == {"key": {"type": "http", "scheme": "bearer"}}


def status_with(api: ApiProcess, key: bytes) -> int:
    return api.get("/v1/models", headers={"Authorization": b"Bearer " + key}).status_code


def test_keys_of_any_characters(guarded: ApiProcess) -> None:
    """Some clients send UTF-8 (curl), others Latin-1 (requests)."""
    for key in KEYS:
        assert status_with(guarded, key.encode()) == 200, key
    for key in KEYS[2], KEYS[4]:
        assert status_with(guarded, key.encode("latin-1")) == 200, key
    for wrong in (b"", b"key-on", b"key-one\xe9", b"k", b"cl", b"\xff", "ключи".encode()):
        assert status_with(guarded, wrong) == 401, wrong


def test_a_key_from_the_environment() -> None:
    with ApiProcess(env={"DLLAMA_API_KEY": "secret"}) as process:
        assert process.get("/v1/models").status_code == 401
        with process.openai("secret") as client:
            assert client.models.list().data


def test_an_empty_key_of_the_environment_is_no_key_and_said() -> None:
    with ApiProcess(env={"DLLAMA_API_KEY": ""}) as process:
        assert process.get("/v1/models").status_code == 200
        assert process.err.count("DLLAMA_API_KEY is set and empty: no key is asked for$") == 1


@pytest.mark.parametrize("key", ["", " ", "a key", "key\n", "k\x1bey"])
def test_keys_that_cannot_be_sent_are_refused(key: str) -> None:
    done = run_dllama("api", "--api-key", key)
    assert done.code == 2
    assert "--api-key" in done.error_line
    if key:
        done = run_dllama("api", env={"DLLAMA_API_KEY": key})
        assert done.code == 2
        assert "DLLAMA_API_KEY" in done.error_line
