"""Clients that send nothing, or slowly, or do not read, hold up nobody else and are let go in time."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import socket
import threading
from contextlib import ExitStack

import pytest
from starlette.types import Receive, Scope, Send

from dllama.fabric import listen
from dllama.server import HttpServer
from dllama.server.connections import ConnectionLimits
from support.processes import TIMEOUT_S

WAIT = b"GET /wait HTTP/1.1\r\nHost: localhost\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\nabc"
GET, MUCH = WAIT.replace(b"/wait", b"/"), WAIT.replace(b"/wait", b"/much")
LAST = b"ok\r\n0\r\n\r\n"
MANY = 5
PATIENT = ConnectionLimits(max_connections=MANY, head_s=TIMEOUT_S, write_s=TIMEOUT_S)
HASTY = ConnectionLimits(head_s=0.05, write_s=0.05)


class Server:
    """An HttpServer around a small app, in a thread of its own."""

    def __init__(self, limits: ConnectionLimits, listener: socket.socket | None = None) -> None:
        self._limits = limits
        self._listener = listener or listen("127.0.0.1", 0)
        self.address = self._listener.getsockname()
        self.entered = threading.Semaphore(0)
        self.left = threading.Semaphore(0)
        self.may_end = threading.Event()
        self.ending = threading.Event()

    async def app(self, scope: Scope, receive: Receive, send: Send) -> None:
        """/ answers once the body has come, /wait when the test lets it, /much with more than buffers hold."""
        while (await receive()).get("more_body"):
            pass
        await send({"type": "http.response.start", "status": 200, "headers": []})
        self.entered.release()
        while scope["path"] == "/wait" and not self.may_end.is_set():
            await asyncio.sleep(0.01)
        for _ in range(1000 if scope["path"] == "/much" else 0):
            await send({"type": "http.response.body", "body": bytes(1 << 16), "more_body": True})
        await send({"type": "http.response.body", "body": b"ok"})
        self.left.release()

    def __enter__(self) -> Server:
        self._http = HttpServer(self.app, self._listener, self.ending.set, self._limits)
        self._thread = threading.Thread(target=self._http.run)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.may_end.set()
        self._http.stop()
        self._thread.join(TIMEOUT_S)
        self._listener.close()

    def stop(self) -> None:
        self._http.stop()

    def connect(self, sent: bytes = b"") -> socket.socket:
        connection = socket.create_connection(self.address, TIMEOUT_S)
        connection.sendall(sent)
        return connection


def answer(connection: socket.socket) -> bytes:
    """All that comes until it is closed."""
    parts = []
    with connection, contextlib.suppress(ConnectionError):
        while part := connection.recv(1 << 16):
            parts.append(part)
    return b"".join(parts)


def closing(request: bytes) -> bytes:
    return request.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n", 1)


def assert_error(response: bytes, status: int) -> None:
    head, _, body = response.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status)
    assert b"content-type: application/json" in head
    assert set(json.loads(body)["error"]) == {"message", "type", "param", "code"}


@pytest.mark.parametrize("sent", [b"", GET], ids=["new", "kept alive"])
def test_the_longest_idle_connection_makes_room(sent: bytes) -> None:
    with Server(PATIENT) as server, ExitStack() as stack:
        idle = []
        for _ in range(MANY):
            idle.append(stack.enter_context(server.connect(sent)))
            received = b""
            while sent and not received.endswith(LAST):
                received += idle[-1].recv(1000)
        assert answer(server.connect(closing(GET))).endswith(LAST)
        assert answer(idle[0]) == b""
        for connection in idle[1:]:
            connection.sendall(closing(GET))
            assert b"HTTP/1.1 200" in answer(connection)


def test_a_request_that_is_on_its_way_makes_room_for_whole_ones() -> None:
    with Server(PATIENT) as server, ExitStack() as stack:
        waiting = [stack.enter_context(server.connect(closing(WAIT))) for _ in range(MANY - 1)]
        for _ in waiting:
            assert server.entered.acquire(timeout=TIMEOUT_S)
        slow = stack.enter_context(server.connect(POST))
        assert b"HTTP/1.1 200" in answer(server.connect(closing(GET)))
        assert answer(slow) == b""
        server.may_end.set()
        for connection in waiting:
            assert b"HTTP/1.1 200" in answer(connection)


def test_what_is_being_answered_is_not_given_up() -> None:
    with Server(PATIENT) as server, ExitStack() as stack:
        waiting = [stack.enter_context(server.connect(closing(WAIT))) for _ in range(MANY)]
        for _ in waiting:
            assert server.entered.acquire(timeout=TIMEOUT_S)
        refused = answer(server.connect())
        assert_error(refused, 503)
        assert b"retry-after: 1\r\n" in refused
        server.may_end.set()
        for connection in waiting:
            assert b"HTTP/1.1 200" in answer(connection)


@pytest.mark.parametrize("sent", [b"G", GET[:-2], GET + GET[:-2]])
def test_half_a_request_is_not_waited_for(sent: bytes) -> None:
    with Server(HASTY) as server:
        response = answer(server.connect(sent))
        assert_error(response[response.rindex(b"HTTP/1.1") :], 408)


def test_bytes_that_come_one_by_one_are_no_request() -> None:
    """Each one is a sign of life, and the headers never end."""
    with Server(HASTY) as server, server.connect(GET[:-2]) as connection:
        connection.settimeout(0.005)
        for _ in range(10_000):
            try:
                connection.sendall(b"a: b\r\n")
                if connection.recv(1000).startswith(b"HTTP/1.1 408"):
                    return
            except TimeoutError:
                continue
            except ConnectionError:
                return
        pytest.fail("it is still open")


@pytest.mark.parametrize(
    "sent", [b"", GET, POST + b"x" * 97], ids=["new", "kept alive", "kept alive after a body"]
)
def test_silence_is_not_listened_to_for_ever(sent: bytes) -> None:
    with Server(HASTY) as server:
        assert answer(server.connect(sent)).count(b"HTTP/1.1") == bool(sent)


def test_a_client_that_does_not_read_is_let_go() -> None:
    with Server(HASTY) as server, server.connect(MUCH):
        assert server.left.acquire(timeout=TIMEOUT_S)


class Exhausted(socket.socket):
    """A listener that finds no descriptor for the first connections that it would accept."""

    n_left = 3

    def accept(self) -> tuple[socket.socket, object]:
        if self.n_left:
            self.n_left -= 1
            raise OSError(errno.EMFILE, "Too many open files")
        return super().accept()


def test_a_lack_of_descriptors_passes(caplog: pytest.LogCaptureFixture) -> None:
    """Idle connections are given up for it. It is said once."""
    with listen("127.0.0.1", 0) as plain:
        listener = Exhausted(fileno=plain.detach())
    with Server(PATIENT, listener) as server:
        assert b"HTTP/1.1 200" in answer(server.connect(closing(GET)))
    assert [record.getMessage() for record in caplog.records] == [
        "connections have to wait: Too many open files"
    ]


def test_answers_under_way_hear_that_the_server_ends() -> None:
    limits = ConnectionLimits(answer_s=0.01, last_words_s=TIMEOUT_S)
    with Server(limits) as server, server.connect(WAIT) as waiting:
        assert server.entered.acquire(timeout=TIMEOUT_S)
        server.stop()
        assert server.ending.wait(TIMEOUT_S)
        server.may_end.set()
        assert b"HTTP/1.1 200" in answer(waiting)


def test_answers_that_do_not_end_are_cut_off(caplog: pytest.LogCaptureFixture) -> None:
    limits = ConnectionLimits(answer_s=0.01, last_words_s=0.01)
    with Server(limits) as server, server.connect(MUCH) as stalled:
        assert server.entered.acquire(timeout=TIMEOUT_S)
        server.stop()
        assert server.left.acquire(timeout=TIMEOUT_S)
        answer(stalled)
    assert not caplog.records
