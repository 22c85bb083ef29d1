"""Who of a session is still there: told by beats alone, whatever else is or is not said."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from dllama.errors import PeerLostError, PeerTimeoutError
from dllama.fabric.heartbeat import Heartbeat
from dllama.fabric.tcp import TcpFabric, TcpPeer
from support.processes import wait_until

INTERVAL_S = 0.02
LONG_S = 20.0
SOON_S = 2.0
"""Seconds of silence, of which 0.5 s are kept back for whoever looks only now and then."""


def connected() -> tuple[socket.socket, socket.socket]:
    """Both ends of a TCP connection."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        calling = socket.create_connection(listener.getsockname())
        return calling, listener.accept()[0]


class Mesh:
    """Heartbeats of several ranks, each connected with each other one."""

    def __init__(self, n_ranks: int) -> None:
        self.beats = [Heartbeat(interval_s=INTERVAL_S) for _ in range(n_ranks)]
        for high in range(n_ranks):
            for low in range(high):
                one, other = connected()
                self.beats[low].add(high, one)
                self.beats[high].add(low, other)
        for rank, beat in enumerate(self.beats):
            beat.watch({peer: SOON_S for peer in range(n_ranks) if peer != rank})

    def close(self) -> None:
        for beat in self.beats:
            beat.close()


@pytest.fixture
def mesh() -> Iterator[Mesh]:
    mesh = Mesh(3)
    yield mesh
    mesh.close()


@pytest.fixture
def half() -> Iterator[tuple[Heartbeat, socket.socket]]:
    """A heartbeat whose rank 1 is the other end of a socket."""
    beat = Heartbeat(interval_s=INTERVAL_S)
    one, other = connected()
    beat.add(1, one)
    beat.watch({1: SOON_S})
    with other:
        yield beat, other
    beat.close()


def test_who_beats_is_there(half: tuple[Heartbeat, socket.socket]) -> None:
    """For longer than a silence may last."""
    beat, peer = half
    start = time.monotonic()
    while time.monotonic() - start < 0.8 * SOON_S:
        assert peer.recv(1) == b"."
        peer.send(b".")
        assert beat.losses == {}


def test_who_is_silent_is_lost_since_it_was_last_heard_of(half: tuple[Heartbeat, socket.socket]) -> None:
    beat, peer = half
    peer.send(b".")
    heard = time.time()
    wait_until(lambda: bool(beat.losses))
    assert beat.losses[1].reason.startswith("no sign of life for")
    assert beat.losses[1].since == pytest.approx(heard, abs=1.0)  # not when it was noticed


def test_who_never_came_is_lost_too() -> None:
    beat = Heartbeat(interval_s=INTERVAL_S)
    beat.watch({1: SOON_S})
    wait_until(lambda: 1 in beat.losses)
    beat.close()


def test_who_is_killed_is_lost_at_once(half: tuple[Heartbeat, socket.socket]) -> None:
    beat, peer = half
    peer.send(b".")
    peer.shutdown(socket.SHUT_RDWR)
    wait_until(lambda: bool(beat.losses))
    assert beat.losses[1].reason == "it closed the connection"


def test_who_does_not_read_holds_nobody_up(half: tuple[Heartbeat, socket.socket]) -> None:
    """A stopped process: beats to it fill its window, and others are heard all the same."""
    beat, peer = half
    one, other = connected()
    one.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while True:
            one.send(bytes(1 << 16))
    beat.add(2, one)
    for _ in range(10):
        assert peer.recv(1) == b"."
        peer.send(b".")
    assert beat.losses == {}
    other.close()


@pytest.mark.slow
def test_who_was_stopped_itself_blames_nobody(
    half: tuple[Heartbeat, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beats that came meanwhile are heard before anyone is judged."""
    beat, peer = half
    stopped, take = threading.Event(), beat._take_arrivals

    def stop() -> None:
        if not stopped.is_set():
            time.sleep(SOON_S)
            stopped.set()
        take()

    monkeypatch.setattr(beat, "_take_arrivals", stop)
    while not stopped.is_set():
        peer.send(b".")
        time.sleep(INTERVAL_S)
    for _ in range(3):
        peer.send(b".")
        time.sleep(INTERVAL_S)
        assert beat.losses == {}


def test_who_ends_because_of_another_one_is_not_to_blame(mesh: Mesh) -> None:
    first, second, third = mesh.beats
    second.close()
    wait_until(lambda: 1 in first.losses)
    assert first.losses[1].reason == "it ended the session"
    wait_until(lambda: 0 in third._links)
    third._links[0].shutdown(socket.SHUT_RDWR)
    wait_until(lambda: 2 in first.losses)
    assert first.losses.keys() == {2}


def test_a_close_ends_all(mesh: Mesh) -> None:
    mesh.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "heartbeat"]


@pytest.fixture
def fabric(half: tuple[Heartbeat, socket.socket]) -> Iterator[tuple[TcpFabric, socket.socket, socket.socket]]:
    """A fabric whose rank 1 is the other ends of two sockets: that of the session and that of the heartbeat."""
    beat, beating = half
    calling, called = connected()
    with called:
        fabric = TcpFabric(0, {1: TcpPeer(calling, "10.0.0.2:9998")}, heartbeat=beat)
        yield fabric, called, beating
        fabric.close()


def test_a_wait_ends_when_a_peer_is_silent(
    fabric: tuple[TcpFabric, socket.socket, socket.socket],
) -> None:
    """Long before the longest time without a byte, and also where that is not limited."""
    with pytest.raises(PeerLostError, match=r"10\.0\.0\.2:9998 \(rank 1\): no sign of life"):
        fabric[0].exchange([], [(1, bytearray(9))], None)
    assert fabric[0].losses.keys() == {1}


@pytest.mark.slow
def test_a_slow_peer_that_beats_is_waited_for(
    fabric: tuple[TcpFabric, socket.socket, socket.socket],
) -> None:
    """It computes for longer than it may be silent."""
    own, _, beating = fabric
    stop = threading.Event()

    def beat() -> None:
        while not stop.wait(INTERVAL_S):
            beating.send(b".")

    thread = threading.Thread(target=beat)
    thread.start()
    with pytest.raises(PeerTimeoutError, match=r"no sign for 2 s"):
        own.exchange([], [(1, bytearray(9))], SOON_S)
    stop.set()
    thread.join()
    assert own.losses[1].reason == "no sign for 2 s"


def test_last_words_are_read_before_a_loss(
    fabric: tuple[TcpFabric, socket.socket, socket.socket],
) -> None:
    """Who is gone may have said why."""
    own, called, beating = fabric
    called.sendall(b"FAILED")
    beating.shutdown(socket.SHUT_RDWR)
    wait_until(lambda: 1 in own.losses)
    words = bytearray(6)
    own.exchange([], [(1, words)], None)
    assert words == b"FAILED"
    with pytest.raises(PeerLostError, match="it closed the connection"):
        own.exchange([], [(1, words)], None)


def test_closing_waits_for_no_beat() -> None:
    """However the thread stands when it is told to end."""
    start_s = time.monotonic()
    for _ in range(300):
        Heartbeat(interval_s=LONG_S).close()
    assert time.monotonic() - start_s < LONG_S
