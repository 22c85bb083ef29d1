"""What a fabric says when a peer vanishes, stays silent, or the exchange is broken off."""

from __future__ import annotations

import re
import threading
import time

import pytest

from dllama.errors import PeerLostError, PeerProtocolError, PeerTimeoutError
from dllama.fabric.frames import receive_frame, send_frame

TIMEOUT_S = 20.0
ARRIVAL_S = 1.0
"""What was sent has arrived by then, also on a busy computer; what was not is waited for in vain."""


def names(fabric, rank):
    return re.escape(f"{fabric.peer_name(rank)} (rank {rank})")


def test_silence_is_a_timeout_that_names_peers_seconds_and_bytes(connect):
    root, *_ = connect(3)
    started = time.monotonic()
    with pytest.raises(PeerTimeoutError) as caught:
        root.exchange([], [(1, bytearray(4352)), (2, bytearray(7))], 0.05)
    assert time.monotonic() - started >= 0.05
    message = str(caught.value)
    assert "0.05 s" in message
    assert re.search(rf"{names(root, 1)} with 4352 bytes from it outstanding", message)
    assert re.search(rf"{names(root, 2)} with 7 bytes from it outstanding", message)
    assert {rank: loss.reason for rank, loss in root.losses.items()} == dict.fromkeys(
        (1, 2), "no sign for 0.05 s"
    )
    assert all(0 < time.time() - loss.since < TIMEOUT_S for loss in root.losses.values())


def test_too_little_names_the_peer_and_what_is_missing(connect):
    """As a timeout, or at once where the fabric knows the sizes of messages."""
    root, worker = connect(2)
    worker.exchange([(0, bytes(30))], [], TIMEOUT_S)
    with pytest.raises((PeerTimeoutError, PeerProtocolError)) as caught:
        root.exchange([], [(1, bytearray(31))], ARRIVAL_S)
    assert re.search(rf"{names(root, 1)}.*(1 bytes from it|30 bytes where 31)", str(caught.value))


def test_too_much_is_found_by_the_next_frame_at_the_latest(connect):
    root, worker = connect(2)
    worker.exchange([(0, bytes(40))], [], TIMEOUT_S)
    send_frame(worker, [0], 1, b"payload", timeout_s=TIMEOUT_S)

    def receive():
        root.exchange([], [(1, bytearray(31))], TIMEOUT_S)
        receive_frame(root, 1, 100, TIMEOUT_S)

    with pytest.raises(PeerProtocolError, match=names(root, 1)):
        receive()


def test_a_peer_that_does_not_read_is_a_timeout_over_what_is_unsent(connect):
    root, _ = connect(2)
    with pytest.raises(PeerTimeoutError, match=r"\d+ bytes to it"):
        root.exchange([(1, bytes(64 << 20))], [], 0.05)


def test_only_those_who_owe_are_named(connect):
    root, _, prompt = connect(3)
    prompt.exchange([(0, b"here")], [], TIMEOUT_S)
    with pytest.raises(PeerTimeoutError) as caught:
        root.exchange([(1, b"?"), (2, b"?")], [(1, bytearray(4)), (2, bytearray(4))], ARRIVAL_S)
    assert root.peer_name(1) in str(caught.value)
    assert root.peer_name(2) not in str(caught.value)


def test_a_peer_that_closed_before(connect):
    root, worker = connect(2)
    worker.close()
    with pytest.raises(PeerLostError, match=rf"{names(root, 1)}.*5 bytes from it"):
        root.exchange([], [(1, bytearray(5))], TIMEOUT_S)
    assert {rank: loss.reason for rank, loss in root.losses.items()} == {1: "it closed the connection"}


def test_a_peer_that_closes_while_it_is_waited_for(connect, on_ranks):
    fabrics = connect(2)

    def work(fabric):
        if fabric.rank == 1:
            fabric.exchange([(0, bytes(100))], [], TIMEOUT_S)
            fabric.close()
            return
        with pytest.raises(PeerLostError, match=rf"{names(fabric, 1)}.*100 bytes from it"):
            fabric.exchange([], [(1, bytearray(100)), (1, bytearray(100))], None)

    on_ranks(fabrics, work)


def test_a_peer_that_closes_while_it_is_sent_to(connect, on_ranks):
    fabrics = connect(2)

    def work(fabric):
        if fabric.rank == 1:
            fabric.exchange([], [(0, bytearray(1 << 20))], TIMEOUT_S)
            fabric.close()
            return
        with pytest.raises(PeerLostError, match=rf"{names(fabric, 1)}.*bytes to it"):
            fabric.exchange([(1, bytes(1 << 20)), (1, bytes(64 << 20))], [], None)

    on_ranks(fabrics, work)


def test_what_a_peer_sent_before_it_closed_still_arrives(connect):
    root, worker = connect(2)
    worker.exchange([(0, b"last words")], [], TIMEOUT_S)
    worker.close()
    received = bytearray(10)
    root.exchange([], [(1, received)], TIMEOUT_S)
    assert received == b"last words"
    with pytest.raises(PeerLostError):
        root.exchange([], [(1, received)], TIMEOUT_S)


def test_one_lost_peer_ends_a_wait_for_others(connect):
    root, _, gone = connect(3)
    gone.close()
    with pytest.raises(PeerLostError, match=names(root, 2)):
        root.exchange([], [(1, bytearray(1)), (2, bytearray(1))], None)


def test_others_go_on_among_themselves(connect):
    root, worker, gone = connect(3)
    gone.close()
    worker.exchange([(0, b"fine")], [], TIMEOUT_S)
    received = bytearray(4)
    root.exchange([], [(1, received)], TIMEOUT_S)
    assert received == b"fine"


def test_after_a_failure_every_call_names_the_first_cause(connect):
    root, silent, gone = connect(3)
    with pytest.raises(PeerTimeoutError) as first:
        root.exchange([], [(1, bytearray(3))], 0.0)
    gone.close()
    silent.exchange([(0, b"now")], [], TIMEOUT_S)
    for sends, receives in ([], []), ([], [(1, bytearray(3))]), ([(2, b"x")], []):
        with pytest.raises(PeerTimeoutError, match=re.escape(str(first.value))):
            root.exchange(sends, receives, None)


@pytest.mark.parametrize("connect", ["tcp", "local", "mpi"], indirect=True)
def test_an_exchange_that_was_broken_off_breaks_the_fabric(connect):
    """But where it is prepared such a thing is found before."""
    root, worker = connect(2)
    worker.exchange([(0, b"12")], [], TIMEOUT_S)
    with pytest.raises((TypeError, BufferError)):
        root.exchange([], [(1, bytes(2))], TIMEOUT_S)
    with pytest.raises(PeerLostError, match="interrupted"):
        root.exchange([], [(1, bytearray(2))], TIMEOUT_S)


def test_closing_ends_the_own_wait(connect):
    root, _ = connect(2)
    caught = []

    def wait():
        with pytest.raises(PeerLostError, match="this node closed"):
            root.exchange([], [(1, bytearray(1))], None)
        caught.append(True)

    waiting = threading.Thread(target=wait, daemon=True)
    waiting.start()
    root.close()
    waiting.join(TIMEOUT_S)
    assert caught


def test_a_closed_fabric_says_so_and_closes_twice(connect):
    root, _ = connect(2)
    root.close()
    root.close()
    with pytest.raises(PeerLostError, match="this node closed"):
        root.exchange([(1, b"x")], [], TIMEOUT_S)


def test_a_broken_fabric_makes_no_prepared_exchange(connect):
    root, worker = connect(2)
    received = bytearray(4)
    prepared = root.prepare([(1, b"ping")], [(1, received)])
    idle = root.prepare([(1, b"more")], [])
    worker.exchange([(0, b"pong")], [], TIMEOUT_S)
    prepared(TIMEOUT_S)
    assert received == b"pong"
    worker.close()
    for exchange in (prepared, prepared, idle):
        with pytest.raises(PeerLostError, match=names(root, 1)):
            exchange(TIMEOUT_S)
    root.close()
    with pytest.raises(PeerLostError):
        idle(TIMEOUT_S)
