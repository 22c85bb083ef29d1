"""What happens to nodes: each fault is one function on the cluster that is over when it returns."""

from __future__ import annotations

import contextlib
import random
import signal
import socket
import subprocess
import time
from collections.abc import Callable

from demo import DLLAMA
from soak.processes import Cluster, Program

Fault = Callable[[Cluster, random.Random], None]

_LOST_S = 14.0
"""Longer than a root waits for a peer that has stopped."""


def worker_killed(cluster: Cluster, rng: random.Random) -> None:
    port = cluster.mortal.port
    cluster.mortal.kill()
    time.sleep(rng.uniform(0.0, 2.0))
    cluster.mortal.start_again(port=port)


def worker_frozen(cluster: Cluster, rng: random.Random) -> None:
    _freeze(cluster.mortal, _LOST_S)


def worker_held_up(cluster: Cluster, rng: random.Random) -> None:
    _freeze(rng.choice([cluster.mortal, cluster.steady]), rng.uniform(0.2, 3.0))


def root_interrupted(cluster: Cluster, rng: random.Random) -> None:
    _root(cluster, rng, signal.SIGINT)


def root_killed(cluster: Cluster, rng: random.Random) -> None:
    _root(cluster, rng, signal.SIGKILL)


def root_that_ends(cluster: Cluster, rng: random.Random) -> None:
    _root(cluster, rng, None)


def garbage(cluster: Cluster, rng: random.Random) -> None:
    """Bytes of nobody, at every port."""
    for program in _all(cluster):
        with contextlib.suppress(OSError), _connection(program) as connection:
            connection.sendall(rng.randbytes(rng.randint(1, 4000)))
            if rng.random() < 0.5:
                connection.setsockopt(
                    socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0"
                )  # ends with a reset


def idle_connections(cluster: Cluster, rng: random.Random) -> None:
    with contextlib.ExitStack() as stack:
        for program in _all(cluster):
            for _ in range(100):
                with contextlib.suppress(OSError):
                    stack.enter_context(_connection(program))
        time.sleep(2.0)


def half_a_request(cluster: Cluster, rng: random.Random) -> None:
    with contextlib.suppress(OSError), _connection(cluster.api) as connection:
        connection.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 900\r\n"
        )
        if rng.random() < 0.5:
            connection.sendall(b'\r\n{"messages"')
        time.sleep(1.0)


FAULTS: tuple[Fault, ...] = (
    worker_killed, worker_frozen, worker_held_up, root_interrupted, root_killed, root_that_ends, garbage,
    idle_connections, half_a_request,
)  # fmt: skip


def _freeze(program: Program, seconds: float) -> None:
    program.signal(signal.SIGSTOP)
    time.sleep(seconds)
    program.signal(signal.SIGCONT)


def _root(cluster: Cluster, rng: random.Random, end: signal.Signals | None) -> None:
    """`dllama inference` with the spare worker, ended by a signal at any moment of its life."""
    command = [
        *DLLAMA, "inference", "--prompt", "Once upon a time", "--steps", "400", "--nthreads", "1", "--workers",
        cluster.spare.address,
    ]  # fmt: skip
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as root:
        if end is not None:
            time.sleep(rng.uniform(0.2, 3.0))
            root.send_signal(end)
        try:
            root.wait(60.0)
        except subprocess.TimeoutExpired:
            root.kill()
            raise


def _all(cluster: Cluster) -> tuple[Program, ...]:
    return cluster.api, cluster.steady, cluster.mortal, cluster.spare


def _connection(program: Program) -> socket.socket:
    return socket.create_connection(("127.0.0.1", program.port), timeout=5.0)
