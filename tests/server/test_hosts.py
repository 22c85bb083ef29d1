"""Names that a server answers to: a web page that reaches it through DNS rebinding gives itself away by its own."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from dllama.server.hosts import names_of_machine
from support.api_process import CHAT, ApiProcess, ask, error_of

PORT = ":9990"
ALWAYS = (
    "localhost",
    "LocalHost.",
    "chat.localhost",
    "127.0.0.1",
    "127.9.9.9",
    "10.1.2.3",
    "[::1]",
    "[fe80::1]",
)
STRANGERS = (
    "evil.example",
    "localhost.evil.example",
    "127.0.0.1.evil.example",
    "127.0.0.1.nip.io",
    "evillocalhost",
    "evil.example:80@localhost",
    "[evil.example]",
    "::1",
    "a, localhost",
    "x" * 2000,
)


@pytest.fixture(scope="module")
def named() -> Iterator[ApiProcess]:
    with ApiProcess("--allow-host", "Chat.Home.Example", "--allow-host", "other.example") as process:
        yield process


@pytest.mark.parametrize("host", [*ALWAYS, socket.gethostname()])
def test_names_of_this_computer(named: ApiProcess, host: str) -> None:
    for header in (host, host + PORT):
        assert named.get("/health", headers={"Host": header}).status_code == 200
        assert named.get("/v1/models", headers={"Host": header}).status_code == 200


@pytest.mark.parametrize("host", STRANGERS)
def test_other_names(named: ApiProcess, host: str) -> None:
    for header in (host, host + PORT):
        for path in ("/", "/health", "/v1/models", "/nothing"):
            error = error_of(named.get(path, headers={"Host": header}), 403)
            assert (error["code"], error["type"]) == ("host_not_allowed", "invalid_request_error")
            assert len(error["message"]) < 250
        error_of(named.post(CHAT, ask("x"), headers={"Host": header}), 403)


def test_the_schema_announces_what_other_names_get(named: ApiProcess) -> None:
    paths = named.get("/openapi.json").json()["paths"]
    for path, operations in paths.items():
        for method, operation in operations.items():
            assert "403" in operation["responses"], (method, path)


def test_names_that_were_allowed(named: ApiProcess) -> None:
    for host in ("chat.home.example", "CHAT.home.example.", "other.example:443"):
        assert named.get("/health", headers={"Host": host}).status_code == 200
    error_of(named.get("/health", headers={"Host": "sub.other.example"}), 403)


def test_any_name_may_be_allowed() -> None:
    with ApiProcess("--allow-host", "*") as process:
        assert process.get("/health", headers={"Host": "evil.example"}).status_code == 200


def test_a_request_without_a_name(named: ApiProcess) -> None:
    """HTTP/1.0 has none; no browser speaks it."""
    with socket.create_connection(("127.0.0.1", int(named.url.rpartition(":")[2]))) as connection:
        connection.sendall(b"GET /health HTTP/1.0\r\n\r\n")
        assert connection.recv(100).startswith(b"HTTP/1.1 200")


def test_a_computer_has_several_names() -> None:
    assert names_of_machine("pi.home.example") == ("pi.home.example", "pi", "pi.local")
    assert names_of_machine("pi") == ("pi", "pi", "pi.local")
    assert names_of_machine("") == ()
