"""What peers say reaches people as lines of text: it controls no terminal, and has an end."""

from __future__ import annotations

import socket
from collections.abc import Callable

import pytest

from dllama.fabric import SocketChannel
from dllama.node.messages import MAX_CONTROL_BYTES, Hello, Kind, Refusal
from support.fake_nodes import TIMEOUT_S, server
from support.processes import WorkerPool, inference, run_dllama

ESCAPES = "\x1b]0;title\x07\x1b[2J\x9b2J\r\n\u202e"
MOST_CHARACTERS = 2000


def refusing(kind: Kind) -> Callable[[socket.socket], None]:
    def answer(connection: socket.socket) -> None:
        channel = SocketChannel(connection, "root", TIMEOUT_S)
        channel.receive_frame(MAX_CONTROL_BYTES)
        channel.send_frame(kind, Refusal(ESCAPES + "x" * 900_000).encode())

    return answer


@pytest.mark.parametrize("kind", [Kind.REFUSED, Kind.BUSY])
def test_a_refusal_is_one_line_of_text(kind: Kind) -> None:
    with server(refusing(kind)) as address:
        done = run_dllama(*inference(workers=[address]))
    assert done.code == 1
    assert done.error_line.isprintable()
    assert r"\x1b]0;title\x07" in done.error_line
    assert len(done.err) < MOST_CHARACTERS


def test_a_worker_shows_orders_as_text(pool: WorkerPool) -> None:
    (worker,) = pool.take(1)
    host, _, port = worker.address.rpartition(":")
    n_lines = worker.err.count("is gone")
    with socket.create_connection((host, int(port)), TIMEOUT_S) as connection:
        channel = SocketChannel(connection, "worker", TIMEOUT_S)
        channel.send_frame(Kind.HELLO, Hello("root", "abc", 0).encode())
        channel.receive_frame(MAX_CONTROL_BYTES)
        channel.send_frame(
            Kind.PLAN, Refusal(ESCAPES + "x" * 900_000).encode().replace(b"reason", b"\\u001b[2J")
        )
    line = worker.err.wait_for("is gone", n_lines + 1).string
    assert line.rstrip("\n").isprintable()
    assert len(line) < MOST_CHARACTERS
