"""A root that takes a worker as far as a test wants it and then ends in the way that the test wants."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import socket
import struct
from collections.abc import Callable

import numpy as np

from dllama.checkpoint import open_checkpoint
from dllama.dtypes import ElementType
from dllama.fabric import TcpFabric, TcpPeer, measure_exchange, receive_frame, send_frame
from dllama.model import VOCABULARY, CacheShape, LogitRows, PageGroup, StepBatch, StepLimits
from dllama.model.all_reduce import wire_row_bytes
from dllama.node.greeting import Address, call, call_heartbeat
from dllama.node.input_rows import encode_inputs
from dllama.node.loading import rounds
from dllama.node.messages import MAX_CONTROL_BYTES, Hello, Kind, ReduceChoice, Role, SessionPlan
from dllama.node.probe import ProbeOrders
from dllama.node.step_message import encode_steps
from dllama.sharding import plan_spans
from support.local_cluster import GOLDENS

TIMEOUT_S = 30.0
SESSION = "abc"
N_ROWS = 64
"""Rows of a prompt's step: enough that it is computed in two halves, whose sums a thread carries."""


N_LARGE_ROWS = 2048
"""A step of so many has inputs that do not fit into its message."""


def small_plan(n_pages: int = 128) -> SessionPlan:
    """The plan of a root and one worker."""
    model = open_checkpoint(GOLDENS / "llama-gqa", ElementType.Q40).model
    return SessionPlan(
        session=SESSION,
        rank=1,
        addresses=("", "10.0.0.1:9998"),
        model=model,
        shards=plan_spans(model.axes, [1.0, 1.0]),
        cache=CacheShape(
            groups=(PageGroup(window=None, n_pages=n_pages),), page_size=16, dtype=ElementType.F16
        ),
        limits=StepLimits(
            max_rows=N_LARGE_ROWS,
            max_logit_rows=4,
            max_positions=N_LARGE_ROWS,
            wire=ElementType.Q80,
            timeout_s=TIMEOUT_S,
        ),
    )


class SessionRoot:
    """Each method takes the session one phase further; those before it have to be called first."""

    def __init__(self, address: Address, plan: SessionPlan) -> None:
        self.plan = plan
        self.channel, _ = call(address, Hello(Role.ROOT, SESSION, 0))
        self.channel.set_deadline(TIMEOUT_S)
        self._heartbeat = call_heartbeat(address, SESSION, 0)
        self.fabric: TcpFabric | None = None

    def join(self) -> TcpFabric:
        """Until the worker has allocated its memory."""
        self.channel.send_frame(Kind.PLAN, self.plan.encode())
        fabric = TcpFabric(0, {1: TcpPeer(self.channel.connection, "worker")})
        self.expect(fabric, Kind.READY)
        self.fabric = fabric
        return fabric

    def measure(self) -> TcpFabric:
        fabric = self.join()
        measure_exchange(fabric, TIMEOUT_S)
        return fabric

    def load(self, n_rounds: int | None = None, fill: int = 0) -> TcpFabric:
        """Sends weights, all of them or `n_rounds` rounds, of bytes that are all `fill`."""
        fabric = self.measure()
        choice = ReduceChoice(scatter_bytes=None, rounds=False, overlap_bytes=0)
        send_frame(fabric, [1], Kind.REDUCE, choice.encode(), timeout_s=TIMEOUT_S)
        for parts in list(rounds(self.plan.model, self.plan.shards))[:n_rounds]:
            fabric.exchange([(1, np.full(parts[1].n_bytes, fill, np.uint8))], [], TIMEOUT_S)
        return fabric

    def idle(self) -> TcpFabric:
        """Until all is loaded."""
        fabric = self.load()
        self.expect(fabric, Kind.LOADED)
        return fabric

    def step(self, n_rows: int) -> TcpFabric:
        """Until the worker has sent its first partial sums and waits for those of the root."""
        fabric = self.idle()
        send_frame(fabric, [1], Kind.STEP, step_payload(self.plan, n_rows), timeout_s=TIMEOUT_S)
        n_first = n_rows // 2 if n_rows == N_ROWS else n_rows
        sums = bytearray(n_first * wire_row_bytes(self.plan.config.dim, self.plan.limits.wire))
        fabric.exchange([], [(1, sums)], TIMEOUT_S)
        return fabric

    def wait_for_inputs(self) -> TcpFabric:
        """Until the worker waits for the inputs of a large step, which come after its message."""
        fabric = self.idle()
        send_frame(fabric, [1], Kind.STEP, step_payload(self.plan, N_LARGE_ROWS), timeout_s=TIMEOUT_S)
        return fabric

    def traced(self) -> TcpFabric:
        """Until the worker traces."""
        fabric = self.idle()
        send_frame(fabric, [1], Kind.CLOCK, timeout_s=TIMEOUT_S)
        assert receive_frame(fabric, 1, MAX_CONTROL_BYTES, TIMEOUT_S)[0] == Kind.CLOCK
        return fabric

    def probed(self) -> TcpFabric:
        """Until the worker waits for what it is to measure, without a model."""
        orders = ProbeOrders(self.plan.session, self.plan.rank, self.plan.addresses)
        self.channel.send_frame(Kind.PROBE, orders.encode())
        self.fabric = TcpFabric(0, {1: TcpPeer(self.channel.connection, "worker")})
        self.expect(self.fabric, Kind.READY)
        return self.fabric

    @staticmethod
    def expect(fabric: TcpFabric, kind: Kind) -> None:
        assert receive_frame(fabric, 1, MAX_CONTROL_BYTES, TIMEOUT_S) == (kind, b"")

    def close(self) -> None:
        if self.fabric is not None:
            self.fabric.close()
        self.channel.connection.close()
        self._heartbeat.close()


def step_payload(plan: SessionPlan, n_rows: int) -> bytes:
    """A STEP of the first `n_rows` positions of one text."""
    (pages,) = plan.cache.lone_pages(0, n_rows)
    batch = StepBatch(
        token_ids=np.zeros(n_rows, np.int32),
        positions=np.arange(n_rows, dtype=np.int32),
        sequence=np.zeros(n_rows, np.int32),
        page_tables=(np.asarray([pages], np.int32),),
        wanted=LogitRows.greedy(np.array([n_rows - 1], np.int32)),
    )
    inputs = encode_inputs(np.ones((n_rows, plan.config.dim), np.float32))
    return encode_steps(batch, inputs, [plan.shards.ranks[1][VOCABULARY]])[0]


Ending = Callable[[SessionRoot], None]


def leaves(_: SessionRoot) -> None:
    """As a process that ends or is killed: its system closes the connection in order."""


def resets(root: SessionRoot) -> None:
    """As a process that is killed with bytes unread."""
    root.channel.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def sends_rubbish(root: SessionRoot) -> None:
    """What is no message, where the worker waits for one."""
    root.channel.connection.setblocking(True)
    root.channel.connection.sendall(b"GET / HTTP/1.1\r\n\r\n")
    with contextlib.suppress(ConnectionError):
        assert root.channel.connection.recv(1 << 16) == b""


def says_end(root: SessionRoot) -> None:
    assert root.fabric is not None
    send_frame(root.fabric, [1], Kind.END, timeout_s=TIMEOUT_S)


def asks_for_an_impossible_step(root: SessionRoot) -> None:
    assert root.fabric is not None
    send_frame(root.fabric, [1], Kind.STEP, b"\xff" * 100, timeout_s=TIMEOUT_S)


def sends_an_impossible_plan(root: SessionRoot) -> None:
    root.channel.send_frame(Kind.PLAN, dataclasses.replace(root.plan, rank=7).encode())


def sends_a_plan_of_workers_out_of_reach(root: SessionRoot) -> None:
    shards = plan_spans(root.plan.model.axes, [1.0] * 3)
    addresses = ("", "169.254.169.254:80", "10.0.0.1:9998")
    plan = dataclasses.replace(root.plan, rank=2, shards=shards, addresses=addresses)
    root.channel.send_frame(Kind.PLAN, plan.encode())
    assert root.channel.receive_frame(MAX_CONTROL_BYTES)[0] == Kind.FAILED


def asks_for_logits(root: SessionRoot) -> None:
    """And does not wait for them."""
    assert root.fabric is not None
    send_frame(root.fabric, [1], Kind.LOGITS, timeout_s=TIMEOUT_S)


def asks_for_an_impossible_measurement(root: SessionRoot) -> None:
    assert root.fabric is not None
    send_frame(root.fabric, [1], Kind.MEASURE, b"{}", timeout_s=TIMEOUT_S)


def sends_a_plan_beyond_the_computer(root: SessionRoot) -> None:
    values = json.loads(root.plan.encode())
    values["cache"]["groups"][0]["n_pages"] = 1 << 26
    root.channel.send_frame(Kind.PLAN, json.dumps(values).encode())
    assert root.channel.receive_frame(MAX_CONTROL_BYTES)[0] == Kind.FAILED


ENDS: dict[str, tuple[Callable[[SessionRoot], object], tuple[Ending, ...]]] = {
    "greeted": (
        lambda root: None,
        (
            leaves,
            resets,
            sends_rubbish,
            sends_an_impossible_plan,
            sends_a_plan_beyond_the_computer,
            sends_a_plan_of_workers_out_of_reach,
        ),
    ),
    "joined": (SessionRoot.join, (leaves, resets)),
    "measured": (SessionRoot.measure, (leaves, resets, sends_rubbish)),
    "loading": (lambda root: root.load(5), (leaves, resets)),
    "bad weights": (lambda root: root.load(fill=255), (leaves, resets)),
    "idle": (
        SessionRoot.idle,
        (leaves, resets, sends_rubbish, says_end, asks_for_an_impossible_step, asks_for_logits),
    ),
    "traced": (SessionRoot.traced, (leaves, says_end)),
    "inputs": (SessionRoot.wait_for_inputs, (leaves, resets)),
    "prefill": (lambda root: root.step(N_ROWS), (leaves, resets)),
    "decode": (lambda root: root.step(1), (leaves, resets)),
    "probed": (
        SessionRoot.probed,
        (leaves, resets, sends_rubbish, says_end, asks_for_an_impossible_measurement),
    ),
}
"""Where a session may end, how it gets there, and in which ways it then ends."""


def run_session(address: Address, plan: SessionPlan, phase: str, ending: Ending) -> None:
    """A session from its beginning to that end."""
    root = SessionRoot(address, plan)
    try:
        ENDS[phase][0](root)
        ending(root)
    finally:
        root.close()
