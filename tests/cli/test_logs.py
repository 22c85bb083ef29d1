"""The log: what is in it at which level, with which times, and how much of it others can cause."""

from __future__ import annotations

import logging
import re
import socket
from collections.abc import Callable

import pytest

from dllama.cli.logs import MOST_A_MINUTE, KindLimit
from support.api_process import CHAT, ApiProcess, ask
from support.processes import DEMO_MODEL, Running, WorkerProcess, inference, run_dllama, run_well

TIME = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d"
N_CONNECTIONS = MOST_A_MINUTE + 50


class Limited:
    """A logger with a limit of 5, on a clock that stands; `lines` is what it wrote."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.lines: list[str] = []
        self.limit = KindLimit(5, self._write, lambda: self.now_s)
        handler = logging.Handler()
        handler.emit = self._write  # type: ignore[method-assign]
        handler.addFilter(self.limit)
        self.logger = logging.Logger("limited")
        self.logger.addHandler(handler)

    def _write(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())

    def one(self, number: int) -> None:
        self.logger.warning("one kind %d", number)

    def other(self) -> None:
        self.logger.warning("another kind")


def test_lines_of_a_kind_are_held_back_and_counted() -> None:
    log = Limited()
    log.now_s = 100.0
    log.one(0)
    log.now_s = 120.0
    for number in range(1, 20):
        log.one(number)
    log.other()
    assert log.lines == [
        *(f"one kind {number}" for number in range(5)),
        "more lines like this are held back for 40 s: one kind 5",
        "another kind",
    ]
    log.lines.clear()
    log.now_s = 160.0
    log.other()
    log.one(20)
    assert log.lines == ["15 lines like this were held back: one kind 5", "another kind", "one kind 20"]


def test_what_is_held_back_is_told_at_the_end() -> None:
    log = Limited()
    for number in range(8):
        log.one(number)
    log.limit.tell_all()
    assert log.lines[-1] == "3 lines like this were held back: one kind 5"
    n_lines = len(log.lines)
    log.limit.tell_all()
    assert len(log.lines) == n_lines


def test_messages_made_of_what_others_say_are_one_kind() -> None:
    log = Limited()
    for number in range(1000):
        log.logger.warning(f"{number}")  # as libraries do
    assert len(log.lines) == 6


def test_tracebacks_count_for_more() -> None:
    log = Limited()
    for _ in range(3):
        log.logger.warning("it failed", exc_info=ValueError())
    assert len(log.lines) == 1


def flood(url: str, sent: bytes) -> None:
    """Connections one after the other, each of which is closed by the server or by us."""
    host, _, port = url.removeprefix("http://").rpartition(":")
    for _ in range(N_CONNECTIONS):
        with socket.create_connection((host, int(port)), 30) as connection:
            connection.sendall(sent)
            connection.recv(1)


def test_a_flood_of_requests_fills_no_log() -> None:
    with ApiProcess() as api:
        flood(api.url, b"POST /%1b%5b2J HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        api.terminate()
        done = api.finish()
    assert MOST_A_MINUTE <= len(done.err.splitlines()) < MOST_A_MINUTE + 20
    assert f"{N_CONNECTIONS - MOST_A_MINUTE} lines like this were held back: POST /\\x1b[2J 404" in done.err
    assert "\x1b" not in done.err


def test_a_flood_of_strangers_fills_no_log_of_a_worker() -> None:
    with WorkerProcess("--log-level", "debug") as worker:
        flood(worker.address, b"GET / HTTP/1.1\r\n\r\n")
        worker.terminate()
        done = worker.finish()
    assert MOST_A_MINUTE <= len(done.err.splitlines()) < MOST_A_MINUTE + 20
    assert "lines like this were held back" in done.err


def api() -> Running:
    return ApiProcess()


def worker() -> Running:
    return WorkerProcess()


@pytest.mark.parametrize("server", [api, worker])
def test_lines_of_servers_have_a_time(server: Callable[[], Running]) -> None:
    with server() as running:
        running.err.wait_for("is served on|worker listens")
        running.terminate()
        lines = running.finish().err.splitlines()
    assert lines
    assert all(re.match(rf"{TIME} [A-Z]+ \S", line) for line in lines), lines


def request_lines(*arguments: str) -> list[str]:
    """What the log says about a chat request, a look at the health and a wrong path."""
    with ApiProcess(*arguments) as api:
        answer = api.post(CHAT, ask("x", max_tokens=3), headers={"X-Request-Id": "mine-1"})
        assert answer.headers["X-Request-Id"] == "mine-1"
        assert len(api.get("/health").headers["X-Request-Id"]) == 24
        wrong = api.get("/nowhere", headers={"X-Request-Id": "not one\x07"})
        assert re.fullmatch("[0-9a-f]{24}", wrong.headers["X-Request-Id"])
        api.terminate()
        err = api.finish().err
    usage = answer.json()["usage"]
    tokens = f"{usage['prompt_tokens']} \\+ {usage['completion_tokens']} tokens"
    if "POST" in err:
        client = r"from 127\.0\.0\.1:\d+"
        assert re.search(rf"POST {CHAT} 200, \d+ ms, {tokens}, {client}, id mine-1\n", err)
        wrong_id = wrong.headers["X-Request-Id"]
        assert re.search(rf"GET /nowhere 404, \d+ ms, {client}, id {wrong_id}\n", err)
    return re.findall(r"(?:GET|POST) \S+ (?:\d+|begins)", err)


def test_requests_for_work_have_a_line_each() -> None:
    assert request_lines() == [f"POST {CHAT} 200", "GET /nowhere 404"]


@pytest.mark.parametrize("arguments", [("--debug",), ("--log-level", "debug")])
@pytest.mark.slow
def test_all_requests_have_lines_in_the_log_of_everything(arguments: tuple[str, ...]) -> None:
    assert request_lines(*arguments) == [
        f"POST {CHAT} begins", f"POST {CHAT} 200", "GET /health begins", "GET /health 200",
        "GET /nowhere begins", "GET /nowhere 404",
    ]  # fmt: skip


def test_a_log_of_warnings_says_where_the_server_is_and_nothing_of_requests() -> None:
    assert request_lines("--log-level", "WARNING") == []


def test_a_request_whose_client_goes_away() -> None:
    with ApiProcess() as api:
        with api.post(CHAT, ask("x", ignore_eos=True, stream=True), stream=True) as answer:
            next(answer.iter_lines())
        line = api.err.wait_for(rf"POST {CHAT} 499").string
        assert re.search(r", \d+ \+ \d+ tokens, from", line)


def test_a_line_says_why_a_request_came_to_nothing() -> None:
    with ApiProcess() as api:
        assert api.post(CHAT, ask("x", temperature=-1)).status_code == 400
        api.err.wait_for(r"POST \S+ 400, .*, id [0-9a-f]+: temperature: Input should be")


@pytest.mark.slow  # ten seconds of attempts
def test_attempts_to_open_a_lost_model_again_fill_no_log() -> None:
    with WorkerProcess() as worker, ApiProcess(workers=[worker.address]) as api:
        assert api.url
        worker.kill()
        api.err.wait_for("WARNING lost worker")
        api.err.wait_for(rf"WARNING .*{worker.address}", 2)  # an attempt has failed
        assert api.err.count("context: ") == 1


def test_levels_of_a_command() -> None:
    for place in (("--debug", "info"), ("info", "--debug"), ("info", "--log-level", "debug")):
        err = run_dllama(*place, "nowhere").err
        assert "DEBUG dllama" in err
        assert "Traceback" in err
    assert "Traceback" not in run_dllama("info", "nowhere").err
    assert run_well("info", DEMO_MODEL, "--log-level", "info").err == ""
    done = run_dllama(*inference("--log-level", "loud"))
    assert done.code == 2
    assert "--log-level" in done.error_line
