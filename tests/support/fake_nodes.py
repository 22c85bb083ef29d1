"""Peers that misbehave, each on a free port of loopback and in a thread of the test."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Iterator

from dllama.errors import PeerError
from dllama.fabric import SocketChannel, TcpFabric, TcpPeer, receive_frame, send_frame
from dllama.node.greeting import Address, call
from dllama.node.messages import MAX_CONTROL_BYTES, Hello, Kind, Role, SessionPlan, Welcome
from dllama.node.reduce_agreement import learn_reduce

TIMEOUT_S = 30.0
_N_FIRST_BYTES = 1000


@contextlib.contextmanager
def server(answer: Callable[[socket.socket], None]) -> Iterator[str]:
    """The address of a server that gives its first connection to `answer` and closes it afterwards.

    What `answer` raises other than for a connection that ended is raised at the end.
    """
    failures: list[BaseException] = []

    def serve() -> None:
        try:
            connection, _ = listener.accept()
            with connection:
                connection.settimeout(TIMEOUT_S)
                answer(connection)
        except ConnectionError:
            pass
        except BaseException as error:
            failures.append(error)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(TIMEOUT_S)
        thread = threading.Thread(target=serve)
        thread.start()
        yield f"127.0.0.1:{listener.getsockname()[1]}"
        thread.join(TIMEOUT_S)
    assert not thread.is_alive()
    if failures:
        raise failures[0]


def of_another_version(connection: socket.socket) -> None:
    connection.recv(1 << 16)
    connection.sendall(struct.pack("<4sHHQ", b"\x8bDL\n", 999, Kind.WELCOME, 0))


def http_server(connection: socket.socket) -> None:
    connection.recv(1 << 16)
    connection.sendall(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")


def closes(connection: socket.socket) -> None:
    connection.recv(1 << 16)


def with_malformed_welcome(connection: socket.socket) -> None:
    channel = SocketChannel(connection, "root", TIMEOUT_S)
    channel.receive_frame(MAX_CONTROL_BYTES)
    channel.send_frame(Kind.WELCOME, b'{"machine": 3}')


def dies_while_loading(connection: socket.socket) -> None:
    """A worker that joins its session as the last rank and goes when the first weights have come."""
    with _loading(connection):
        pass


def acts_while_loading(connection: socket.socket, act: Callable[[], object]) -> None:
    """A worker that does something beside when the first weights have come, and is content with whatever follows."""
    with _loading(connection) as (fabric, plan), contextlib.suppress(PeerError):
        act()
        n_bytes = plan.model.shard_bytes(plan.shards.ranks[plan.rank])
        fabric.exchange([], [(0, bytearray(n_bytes - _N_FIRST_BYTES))], TIMEOUT_S)
        send_frame(fabric, [0], Kind.LOADED, timeout_s=TIMEOUT_S)
        receive_frame(fabric, 0, MAX_CONTROL_BYTES, TIMEOUT_S)


@contextlib.contextmanager
def _loading(connection: socket.socket) -> Iterator[tuple[TcpFabric, SessionPlan]]:
    """A worker that has joined its session as the last rank, and has got the first weights."""
    channel = SocketChannel(connection, "root", TIMEOUT_S)
    channel.receive_frame(MAX_CONTROL_BYTES)
    welcome = Welcome(
        machine="elsewhere", available_bytes=1 << 40, n_threads=1, isa="scalar", kv_on_disk=False
    )
    channel.send_frame(Kind.WELCOME, welcome.encode())
    kind, payload = channel.receive_frame(MAX_CONTROL_BYTES)
    assert kind == Kind.PLAN
    plan = SessionPlan.decode(payload, "root")
    peers = {0: TcpPeer(connection, "root")}
    for rank in range(1, plan.rank):
        peer, _ = call(Address.parse(plan.addresses[rank]), Hello(Role.WORKER, plan.session, plan.rank))
        peers[rank] = TcpPeer(peer.connection, f"worker {rank}")
    with contextlib.closing(TcpFabric(plan.rank, peers)) as fabric:
        send_frame(fabric, [0], Kind.READY, timeout_s=TIMEOUT_S)
        learn_reduce(fabric, TIMEOUT_S)
        fabric.exchange([], [(0, bytearray(_N_FIRST_BYTES))], TIMEOUT_S)
        yield fabric, plan
