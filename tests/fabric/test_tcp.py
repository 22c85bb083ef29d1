"""What only TCP has: peers in other processes, a system between the ranks, sockets."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

import pytest

import dllama.fabric.tcp as tcp
from dllama.errors import PeerLostError, PeerTimeoutError
from dllama.fabric.channel import connect_with_deadline, listen
from dllama.fabric.socket_options import set_options

TIMEOUT_S = 20.0
PEER = Path(__file__).with_name("peer_process.py")
SOURCE = Path(tcp.__file__).parents[2]

Start = Callable[[str], tuple[tcp.TcpFabric, "subprocess.Popen[bytes]"]]


@pytest.fixture
def start() -> Iterator[Start]:
    """start(scenario) gives the fabric of rank 0 and the process of rank 1, already connected."""
    opened: list[tuple[tcp.TcpFabric, subprocess.Popen[bytes]]] = []

    def run(scenario: str) -> tuple[tcp.TcpFabric, subprocess.Popen[bytes]]:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            listener.settimeout(TIMEOUT_S)
            command = [sys.executable, str(PEER), str(listener.getsockname()[1]), scenario]
            process = subprocess.Popen(command, env=os.environ | {"PYTHONPATH": str(SOURCE)})
            connection, _ = listener.accept()
        opened.append((tcp.TcpFabric(0, {1: tcp.TcpPeer(connection, "10.0.0.2:9998")}), process))
        return opened[-1]

    yield run
    for fabric, process in opened:
        fabric.close()
        process.kill()
        process.wait(TIMEOUT_S)


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        calling = socket.create_connection(listener.getsockname())
        called, _ = listener.accept()
    with calling, called:
        yield calling, called


@pytest.mark.parametrize("timeout_s", [None, TIMEOUT_S])
def test_a_process_that_dies_before(start: Start, timeout_s: float | None) -> None:
    fabric, _ = start("dies before")
    with pytest.raises(PeerLostError, match=r"10\.0\.0\.2:9998 \(rank 1\).*4352 bytes from it"):
        fabric.exchange([(1, bytes(4352))], [(1, bytearray(4352))], timeout_s)


def test_a_process_that_dies_within(start: Start) -> None:
    fabric, _ = start("dies within")
    with pytest.raises(PeerLostError, match=r"10\.0\.0\.2:9998.*3352 bytes from it"):
        fabric.exchange([], [(1, bytearray(4352))], None)


def test_a_process_that_dies_after(start: Start) -> None:
    fabric, _ = start("dies after")
    fabric.exchange([(1, bytes(4352))], [(1, bytearray(4352))], TIMEOUT_S)
    with pytest.raises(PeerLostError, match=r"10\.0\.0\.2:9998"):
        fabric.exchange([], [(1, bytearray(1))], None)


def test_a_process_that_is_killed_while_it_answers(start: Start) -> None:
    fabric, process = start("echoes")
    buffer = bytearray(4352)
    for _ in range(1000):
        fabric.exchange([(1, buffer)], [(1, buffer)], TIMEOUT_S)
    assert fabric.sent_bytes == fabric.received_bytes == [0, 4_352_000]
    process.kill()
    started = time.monotonic()

    def go_on() -> None:
        while True:
            fabric.exchange([(1, buffer)], [(1, buffer)], None)

    with pytest.raises(PeerLostError, match=r"10\.0\.0\.2:9998"):
        go_on()
    assert time.monotonic() - started < 5


def test_a_stopped_process_is_a_timeout_and_not_a_loss(start: Start) -> None:
    """Without a heartbeat nobody can tell: its system still answers, even if its receive window is full."""
    fabric, process = start("stops")
    os.waitpid(process.pid, os.WUNTRACED)
    with pytest.raises(PeerTimeoutError, match=r"10\.0\.0\.2:9998.* bytes to it"):
        fabric.exchange([(1, bytes(64 << 20))], [], 0.3)


def test_without_spinning(start: Start) -> None:
    fabric, _ = start("echoes")
    fabric._spin_s = 0.0
    for _ in range(100):
        fabric.exchange([(1, bytes(4352))], [(1, bytearray(4352))], TIMEOUT_S)


def test_a_long_wait_leaves_the_core_to_others(pair: tuple[socket.socket, socket.socket]) -> None:
    """It is over by a deadline, and the native loop has handed over to Python more than once by then."""
    fabric = tcp.TcpFabric(0, {1: tcp.TcpPeer(pair[0], "10.0.0.2:9998")})
    used_s, wait_s = -time.thread_time(), 0.6
    with pytest.raises(PeerTimeoutError, match=r"0\.6 s of 10\.0\.0\.2:9998 \(rank 1\) with 9 bytes from it"):
        fabric.exchange([], [(1, bytearray(9))], wait_s)
    used_s += time.thread_time()
    assert used_s < 0.05 * wait_s


def test_a_signal_ends_a_wait(pair: tuple[socket.socket, socket.socket]) -> None:
    def interrupt(_signal: int, frame: FrameType | None) -> None:
        """Once the exchange is under way, which takes a busy computer a while."""
        if frame is not None and frame.f_code.co_filename == tcp.__file__:
            signal.setitimer(signal.ITIMER_REAL, 0)
            raise KeyboardInterrupt

    fabric = tcp.TcpFabric(0, {1: tcp.TcpPeer(pair[0], "10.0.0.2:9998")})
    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.02, 0.02)
        with pytest.raises(KeyboardInterrupt):
            fabric.exchange([], [(1, bytearray(9))], None)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    with pytest.raises(PeerLostError, match="interrupted"):
        fabric.exchange([], [], None)


def test_time_until_the_first_bytes_is_apart_from_the_rest(pair: tuple[socket.socket, socket.socket]) -> None:
    """A busy computer may hold this process up at any place, for the length of an exchange, but not each time."""
    fabric = tcp.TcpFabric(0, {1: tcp.TcpPeer(pair[0], "10.0.0.2:9998")})
    for _ in range(20):
        waited_s, moved_s = fabric.waited_s, fabric.moved_s
        pair[1].sendall(bytes(10))
        fabric.exchange([], [(1, bytearray(9))], TIMEOUT_S)
        fabric.exchange([], [], TIMEOUT_S)
        at_once_s = fabric.waited_s + fabric.moved_s - waited_s - moved_s
        answer = threading.Timer(0.1, pair[1].sendall, [bytes(9)])
        answer.start()
        fabric.exchange([], [(1, bytearray(10))], TIMEOUT_S)  # one byte of it is here
        answer.join()
        if at_once_s < 0.05 and fabric.waited_s - waited_s < 0.05 < fabric.moved_s - moved_s:
            return
    pytest.fail("what had come was waited for, or what had not was not, 20 times")


def test_what_is_no_buffer_breaks_the_exchange_and_not_the_process(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    fabric = tcp.TcpFabric(0, {1: tcp.TcpPeer(pair[0], "10.0.0.2:9998")})
    with pytest.raises(BufferError):
        fabric.exchange([], [(1, bytes(3))], TIMEOUT_S)  # type: ignore[list-item]
    fabric = tcp.TcpFabric(0, {1: tcp.TcpPeer(pair[0], "10.0.0.2:9998")})
    with pytest.raises(KeyError, match="rank 2"):
        fabric.exchange([(2, b"abc")], [], TIMEOUT_S)


def test_ranks_must_have_no_gaps(pair: tuple[socket.socket, socket.socket]) -> None:
    with pytest.raises(AssertionError, match="gaps"):
        tcp.TcpFabric(0, {2: tcp.TcpPeer(pair[0], "far")})


def test_options_send_at_once(pair: tuple[socket.socket, socket.socket]) -> None:
    set_options(pair[0])
    assert pair[0].getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_an_idle_connection_is_not_forgotten_on_the_way(pair: tuple[socket.socket, socket.socket]) -> None:
    """Between steps nothing travels for hours, and routers and firewalls drop what is idle for a few minutes."""
    set_options(pair[0])
    assert pair[0].getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    probed_after = socket.TCP_KEEPIDLE if hasattr(socket, "TCP_KEEPIDLE") else socket.TCP_KEEPALIVE
    assert pair[0].getsockopt(socket.IPPROTO_TCP, probed_after) <= 120


needs_congestion_control = pytest.mark.skipif(
    not hasattr(socket, "TCP_CONGESTION"), reason="this system has no choice of congestion control"
)


def _congestion_control(connection: socket.socket) -> str:
    name = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16)
    return name.rstrip(b"\0").decode()


@needs_congestion_control
def test_options_keep_a_congestion_control_that_does_not_pace(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    pair[0].setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"reno")
    set_options(pair[0])
    assert _congestion_control(pair[0]) == "reno"


@needs_congestion_control
def test_options_replace_a_congestion_control_that_paces() -> None:
    with socket.socket() as connection:
        try:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"bbr")
        except OSError:
            pytest.skip("this system has no BBR")
        set_options(connection)
        assert _congestion_control(connection) in ("cubic", "reno")


@needs_congestion_control
def test_no_end_of_a_connection_paces() -> None:
    with (
        listen("127.0.0.1", 0) as listener,
        connect_with_deadline("127.0.0.1", listener.getsockname()[1], TIMEOUT_S) as caller,
        listener.accept()[0] as called,
    ):
        assert not {_congestion_control(end) for end in (caller, called)} & {"bbr"}
