"""A worker whose caller is hostile or of another mind: it says why, and serves the next one."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import re
import socket
import struct
import threading
from collections.abc import Iterator

import psutil
import pytest

from dllama.errors import PeerBusyError, PeerError, PeerLostError
from dllama.fabric import SocketChannel, listen
from dllama.fabric.frames import MAGIC, PROTOCOL_VERSION, encode_header
from dllama.kernels import Cpu
from dllama.node import Address, NodeSettings, Worker, root_link
from dllama.node.greeting import call
from dllama.node.memory import memory_need
from dllama.node.messages import MAX_CONTROL_BYTES, Hello, Kind, Refusal, Role, SessionPlan
from dllama.node.probe import ProbeOrders
from support import fake_nodes
from support.session_root import SessionRoot, small_plan

TIMEOUT_S = 20.0
ROOT = Hello(Role.ROOT, "abc", 0)


class Served:
    """A worker in threads of this process, and what it said."""

    def __init__(self) -> None:
        listener = listen("127.0.0.1", 0)
        self.address = Address("127.0.0.1", listener.getsockname()[1])
        self.lines: list[str] = []
        self._said = threading.Condition()
        self._worker = Worker(listener, Cpu(1), NodeSettings(), self._hear)
        self._is_closing = False
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def close(self) -> None:
        self._is_closing = True
        with self.root():
            pass
        self._thread.join(TIMEOUT_S)
        self._worker.close()

    def _serve(self) -> None:
        while not self._is_closing:
            self._worker.serve_one()

    def _hear(self, line: str) -> None:
        with self._said:
            self.lines.append(line)
            self._said.notify_all()

    def wait_for(self, text: str) -> str:
        """The next line in which `text` is found; those before it are forgotten."""
        with self._said:
            assert self._said.wait_for(
                lambda: any(re.search(text, line) for line in self.lines), TIMEOUT_S
            ), self.lines
            while not re.search(text, self.lines[0]):
                del self.lines[0]
            return self.lines.pop(0)

    @contextlib.contextmanager
    def root(self) -> Iterator[SocketChannel]:
        """A root that has been welcomed."""
        channel, _ = call(self.address, ROOT)
        channel.set_deadline(TIMEOUT_S)
        try:
            yield channel
        finally:
            channel.connection.close()


@pytest.fixture(scope="module")
def worker() -> Iterator[Served]:
    served = Served()
    yield served
    served.close()


def test_a_message_before_the_plan(worker: Served) -> None:
    with worker.root() as channel:
        channel.send_frame(Kind.STEP, b"")
        assert "in place of a plan" in worker.wait_for("is gone")


def test_a_root_of_another_version(worker: Served) -> None:
    """It gets an answer, whose header is enough for a clear sentence, though nothing else need be understood."""
    host, port = worker.address.host, worker.address.port
    hello = b'{"role": "root", "words": "of another version"}'
    with socket.create_connection((host, port), timeout=TIMEOUT_S) as root:
        root.sendall(struct.pack("<4sHHQ", MAGIC, PROTOCOL_VERSION - 1, Kind.HELLO, len(hello)) + hello)
        kind, payload = SocketChannel(root, "worker", TIMEOUT_S).receive_frame(MAX_CONTROL_BYTES)
        assert kind == Kind.REFUSED
        assert "install the same release of dllama on both" in Refusal.decode(payload, "worker").reason
        assert root.recv(1) == b""


def test_a_stranger_gets_no_answer(worker: Served) -> None:
    with socket.create_connection((worker.address.host, worker.address.port), timeout=TIMEOUT_S) as stranger:
        stranger.sendall(b"GET / HTTP/1.1\r\n\r\n")
        assert stranger.recv(1) == b""


def test_a_worker_of_the_first_version() -> None:
    """It closes the connection, without a look at what else was sent."""
    with (
        fake_nodes.server(lambda connection: connection.recv(16)) as address,
        pytest.raises(PeerLostError, match="see whether it has the same release of dllama"),
    ):
        call(Address.parse(address), ROOT)


def test_an_impossible_plan(worker: Served, plan: SessionPlan) -> None:
    with worker.root() as channel:
        channel.send_frame(Kind.PLAN, dataclasses.replace(plan, rank=7).encode())
        assert "malformed SessionPlan" in worker.wait_for("is gone")


def test_a_plan_beyond_this_computer(worker: Served, plan: SessionPlan) -> None:
    values = json.loads(plan.encode())
    values["cache"]["groups"][0]["n_pages"] = 1 << 26
    with worker.root() as channel:
        channel.send_frame(Kind.PLAN, json.dumps(values).encode())
        kind, payload = channel.receive_frame(MAX_CONTROL_BYTES)
        assert kind == Kind.FAILED
        assert "not enough memory: this worker needs" in Refusal.decode(payload, "worker").reason
    worker.wait_for("is gone")


@pytest.mark.parametrize("greeting", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"SSH-2.0-Secret_1.2\r\n"])
@pytest.mark.parametrize("kind", [Kind.PLAN, Kind.PROBE])
def test_what_else_is_at_an_address_is_not_told(
    worker: Served, plan: SessionPlan, kind: Kind, greeting: bytes
) -> None:
    """Rank 2 calls rank 1, where somebody else listens: the root hears that it was not reached, in the same words."""
    with listen("127.0.0.1", 0) as nobody, worker.root() as channel:
        address = f"127.0.0.1:{nobody.getsockname()[1]}"

        def answer() -> None:
            connection, _ = nobody.accept()
            with connection:
                connection.sendall(greeting)

        threading.Thread(target=answer, daemon=True).start()
        addresses = ("", address, "10.0.0.2:9990")
        orders = {
            Kind.PLAN: dataclasses.replace(plan, rank=2, addresses=addresses),
            Kind.PROBE: ProbeOrders("abc", 2, addresses),
        }
        channel.send_frame(kind, orders[kind].encode())
        refused, payload = channel.receive_frame(MAX_CONTROL_BYTES)
        assert refused == Kind.FAILED
        assert Refusal.decode(payload, "worker").reason == (
            f"it cannot reach worker {address}; see whether both are in one network and no firewall is between them "
            "(its own output says more)"
        )
    worker.wait_for("is gone")


@pytest.mark.parametrize("kind", [Kind.PLAN, Kind.PROBE])
def test_a_place_where_no_worker_can_be_is_not_called(worker: Served, plan: SessionPlan, kind: Kind) -> None:
    addresses = ("", "169.254.169.254:80", "10.0.0.2:9990")
    orders = {
        Kind.PLAN: dataclasses.replace(plan, rank=2, addresses=addresses),
        Kind.PROBE: ProbeOrders("abc", 2, addresses),
    }
    with worker.root() as channel:
        channel.send_frame(kind, orders[kind].encode())
        refused, payload = channel.receive_frame(MAX_CONTROL_BYTES)
        assert refused == Kind.FAILED
        assert "it cannot reach worker 169.254.169.254:80" in Refusal.decode(payload, "worker").reason
    worker.wait_for("is gone")


def test_a_step_larger_than_the_plan_has_room_for(worker: Served) -> None:
    """With pages of one position a step was allowed that had every page of the cache for every row: 4.3 GB here, of
    which the worker took each byte that was announced before it looked at one."""
    small = small_plan()
    plan = dataclasses.replace(
        small,
        cache=dataclasses.replace(small_plan(n_pages=1 << 20).cache, page_size=1),
        limits=dataclasses.replace(small.limits, max_rows=1024),
    )
    n_counted = memory_need(plan.model, plan.shards, 1, plan.cache, plan.limits, False).other_bytes
    root = SessionRoot(worker.address, plan)
    with contextlib.closing(root):
        fabric = root.idle()
        fabric.exchange([(1, encode_header(Kind.STEP, n_counted))], [], TIMEOUT_S)
        assert f"announced a message of kind 9 with {n_counted} bytes" in worker.wait_for("is gone")


@pytest.mark.slow
def test_a_plan_whose_other_worker_cannot_get_here(
    worker: Served, plan: SessionPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A firewall, say. The root hears it, though the time for its orders is over by then, and is not to blame."""
    monkeypatch.setattr(root_link, "GREETING_TIMEOUT_S", 1.5)
    monkeypatch.setattr(root_link, "_JOIN_S", 2.0)
    with worker.root() as channel:
        channel.send_frame(Kind.PLAN, plan.encode())
        kind, payload = channel.receive_frame(MAX_CONTROL_BYTES)
        assert kind == Kind.FAILED
        reason = Refusal.decode(payload, "worker").reason
        assert reason.startswith("10.0.0.2:9990 of the same session did not reach it within 2 s")
        assert reason in worker.wait_for("the session of .* is gone")


def test_others_are_sent_away(worker: Served) -> None:
    with worker.root() as channel:
        host, port = channel.connection.getsockname()
        with pytest.raises(PeerBusyError, match=rf"worker {worker.address} is busy with {host}:{port}"):
            call(worker.address, Hello(Role.ROOT, "another", 0))
        with pytest.raises(PeerError, match="it serves no such session"):
            call(worker.address, Hello(Role.WORKER, "another", 2))
    worker.wait_for("is gone")


def test_the_next_root_need_not_wait_for_the_last_word(worker: Served) -> None:
    """Whoever calls while a session is ending is let in as soon as it has ended."""
    channel, _ = call(worker.address, ROOT)
    answers: list[SocketChannel] = []
    waiting = threading.Thread(target=lambda: answers.append(call(worker.address, ROOT)[0]))
    waiting.start()
    channel.connection.close()
    waiting.join(TIMEOUT_S)
    assert len(answers) == 1
    answers[0].connection.close()
    worker.wait_for("is gone")
    worker.wait_for("is gone")


def silent_callers(address: Address, n: int, stack: contextlib.ExitStack) -> None:
    for _ in range(n):
        stack.enter_context(socket.create_connection((address.host, address.port)))


def test_strangers_who_say_nothing_are_few(worker: Served) -> None:
    """The one who has been silent longest goes first, and a root is let in all the while."""
    with contextlib.ExitStack() as stack:
        oldest = stack.enter_context(socket.create_connection((worker.address.host, worker.address.port)))
        silent_callers(worker.address, 200, stack)
        oldest.settimeout(TIMEOUT_S)
        assert oldest.recv(1) == b""
        n_open = len(psutil.Process().net_connections()) - 2 * 201
        assert n_open < 2 * 64
        with worker.root() as channel:
            channel.send_frame(Kind.STEP, b"")
            assert "in place of a plan" in worker.wait_for("is gone")


def test_no_thread_to_be_had(worker: Served, plan: SessionPlan, monkeypatch: pytest.MonkeyPatch) -> None:
    """Roots are greeted without one; who cannot be served hears why; the next one is served."""

    def refuse(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with worker.root() as channel, monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse)
        channel.send_frame(Kind.PLAN, plan.encode())
        kind, payload = channel.receive_frame(MAX_CONTROL_BYTES)
        assert kind == Kind.FAILED
        assert "no more threads" in Refusal.decode(payload, "worker").reason
        assert "no more threads" in worker.wait_for("is gone")
    test_a_message_before_the_plan(worker)
