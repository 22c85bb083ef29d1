"""What a fabric carries arrives whole, in order, and is counted."""

from __future__ import annotations

import threading

import numpy as np
import pytest

TIMEOUT_S = 20.0
MB = 1 << 20


def content(source: int, target: int, number: int, size: int) -> np.ndarray:
    """Bytes [size] that differ between pairs, buffers and positions."""
    block = np.random.default_rng((source, target, number)).integers(0, 256, min(size, 65521), np.uint8)
    return np.resize(block, size) if size else np.empty(0, np.uint8)


def all_to_all(fabric, size_of, n_buffers=1):
    """Exchanges `n_buffers` buffers of size_of(source, target, number) bytes with every other rank and checks
    them; returns the bytes sent and received for each peer."""
    own = fabric.rank
    peers = [rank for rank in range(fabric.n_ranks) if rank != own]
    wanted = {
        (peer, number): content(peer, own, number, size_of(peer, own, number))
        for number in range(n_buffers)
        for peer in peers
    }
    received = {key: np.zeros_like(buffer) for key, buffer in wanted.items()}
    sends = [
        (peer, content(own, peer, number, size_of(own, peer, number)))
        for number in range(n_buffers)
        for peer in peers
    ]
    fabric.exchange(sends, [(peer, received[peer, number]) for peer, number in wanted], TIMEOUT_S)
    for key, buffer in wanted.items():
        np.testing.assert_array_equal(received[key], buffer, err_msg=f"rank {own}, (peer, number) {key}")
    sent_bytes, received_bytes = [0] * fabric.n_ranks, [0] * fabric.n_ranks
    for peer, buffer in sends:
        sent_bytes[peer] += buffer.nbytes
    for (peer, _), buffer in wanted.items():
        received_bytes[peer] += buffer.nbytes
    return sent_bytes, received_bytes


@pytest.mark.parametrize("n_ranks", range(1, 9))
@pytest.mark.parametrize("size", [0, 1, 31, 4352])
def test_small_buffers_of_all_ranks(connect, on_ranks, n_ranks, size):
    on_ranks(connect(n_ranks), lambda fabric: all_to_all(fabric, lambda *_: size))


@pytest.mark.parametrize(
    ("n_ranks", "size"), [(2, MB), (3, MB), (8, MB), pytest.param(2, 64 * MB, marks=pytest.mark.slow)]
)
def test_large_buffers_both_ways_at_once(connect, on_ranks, n_ranks, size):
    on_ranks(connect(n_ranks), lambda fabric: all_to_all(fabric, lambda *_: size))


def test_uneven_sizes_and_exact_counters(connect, on_ranks):
    fabrics = connect(5)
    sizes = np.random.default_rng(3).choice([0, 1, 17, 31, 4352, 70_000, 300_000], size=(5, 5, 3))

    def size_of(source, target, number):
        return int(sizes[source, target, number])

    expected = on_ranks(fabrics, lambda fabric: all_to_all(fabric, size_of, n_buffers=3))
    for fabric, (sent_bytes, received_bytes) in zip(fabrics, expected, strict=True):
        assert fabric.sent_bytes == sent_bytes
        assert fabric.received_bytes == received_bytes
        assert fabric.sent_bytes[fabric.rank] == 0


def test_counters_are_snapshots_that_add_up(connect, on_ranks):
    fabrics = connect(2)
    before = fabrics[0].sent_bytes
    for _ in range(3):
        on_ranks(fabrics, lambda fabric: all_to_all(fabric, lambda *_: 100))
    assert before == [0, 0]
    assert fabrics[0].sent_bytes == [0, 300]
    assert fabrics[0].received_bytes == [0, 300]


def test_many_buffers_for_one_peer_keep_their_order(connect, on_ranks):
    """More than one system call may take: a step's message has many parts."""
    on_ranks(connect(2), lambda fabric: all_to_all(fabric, lambda s, t, number: number % 7, n_buffers=1200))


def test_buffers_arrive_in_order_across_exchanges(connect, on_ranks):
    def work(fabric):
        if fabric.rank == 0:
            for number in range(200):
                fabric.exchange([(1, bytes([number]))], [], TIMEOUT_S)
            return None
        numbers = bytearray(200)
        view = memoryview(numbers)
        for start in range(0, 200, 2):
            fabric.exchange([], [(0, view[start : start + 1]), (0, view[start + 1 : start + 2])], TIMEOUT_S)
        return numbers

    assert on_ranks(connect(2), work)[1] == bytes(range(200))


@pytest.mark.parametrize("dtype", [np.int8, np.float16, np.int32, np.float64])
def test_arrays_of_any_type_and_shape(connect, on_ranks, dtype):
    def work(fabric):
        own = np.full((3, 5, 2), fabric.rank + 1, dtype)
        other = np.zeros((3, 5, 2), dtype)
        fabric.exchange([(1 - fabric.rank, own)], [(1 - fabric.rank, other)], TIMEOUT_S)
        return other

    for rank, other in enumerate(on_ranks(connect(2), work)):
        assert (other == 2 - rank).all()


def test_empty_arrays_of_several_axes_carry_nothing(connect, on_ranks):
    def work(fabric):
        empty = np.empty((0, 4), np.float32)
        fabric.exchange([(1 - fabric.rank, empty)], [(1 - fabric.rank, empty)], 0.0)
        return fabric.sent_bytes

    assert on_ranks(connect(2), work) == [[0, 0], [0, 0]]


def test_exchange_with_nobody_returns_at_once(connect):
    connect(1)[0].exchange([], [], 0.0)


def test_a_small_message_does_not_wait_for_its_receiver(connect):
    root, worker = connect(2)
    root.exchange([(1, b"step")], [], TIMEOUT_S)
    received = bytearray(4)
    worker.exchange([], [(0, received)], TIMEOUT_S)
    assert received == b"step"


def test_sent_buffers_may_change_after_the_exchange(connect):
    root, worker = connect(2)
    buffer = bytearray(b"first")
    root.exchange([(1, buffer)], [], TIMEOUT_S)
    buffer[:] = b"other"
    received = bytearray(5)
    worker.exchange([], [(0, received)], TIMEOUT_S)
    assert received == b"first"


def test_a_slow_peer_is_waited_for_while_it_makes_progress(connect, on_ranks):
    """Each gap is shorter than the timeout, all of them together are longer."""
    n_parts, gap_s, timeout_s = 6, 0.3, 1.5
    never = threading.Event()

    def work(fabric):
        if fabric.rank == 1:
            for _ in range(n_parts):
                never.wait(gap_s)
                fabric.exchange([(0, b"x")], [], TIMEOUT_S)
            return None
        parts = [bytearray(1) for _ in range(n_parts)]
        fabric.exchange([], [(1, part) for part in parts], timeout_s)
        return parts

    assert on_ranks(connect(2), work)[0] == [b"x"] * n_parts


def test_names_and_ranks(connect):
    for rank, fabric in enumerate(connect(3)):
        assert (fabric.rank, fabric.n_ranks) == (rank, 3)
        assert len({fabric.peer_name(peer) for peer in range(3)}) == 3


@pytest.mark.parametrize(("n_ranks", "size"), [(1, 100), (2, 0), (2, 4352), (4, 31), (3, 9 * MB)])
def test_a_prepared_exchange_carries_what_its_buffers_hold_each_time(connect, on_ranks, n_ranks, size):
    n_times = 3

    def work(fabric):
        peers = [rank for rank in range(n_ranks) if rank != fabric.rank]
        sent = {peer: np.zeros(size, np.uint8) for peer in peers}
        received = {peer: np.zeros(size, np.uint8) for peer in peers}
        exchange = fabric.prepare(list(sent.items()), list(received.items()))
        for number in range(n_times):
            for peer in peers:
                sent[peer][:] = content(fabric.rank, peer, number, size)
            exchange(TIMEOUT_S)
            for peer in peers:
                np.testing.assert_array_equal(received[peer], content(peer, fabric.rank, number, size))
            all_to_all(fabric, lambda *_: 17)
        expected = [n_times * (size + 17) * (rank != fabric.rank) for rank in range(n_ranks)]
        assert fabric.sent_bytes == fabric.received_bytes == expected

    on_ranks(connect(n_ranks), work)


def test_prepared_exchanges_come_and_go(connect, on_ranks):
    """Some are kept, in whatever order they are used, others are dropped after a time."""

    def work(fabric):
        peer, kept = 1 - fabric.rank, {}
        for number in range(40):
            own, other = bytearray([number, fabric.rank]), bytearray(2)
            kept[number % 7] = fabric.prepare([(peer, own)], [(peer, other)]), number, other
            for exchange, of_number, received in kept.values():
                received[:] = b"  "
                exchange(TIMEOUT_S)
                assert received == bytes([of_number, peer])

    on_ranks(connect(2), work)


def test_a_prepared_exchange_and_another_one_cannot_be_told_apart(connect, on_ranks):
    def work(fabric):
        peer, received = 1 - fabric.rank, bytearray(3)
        sends, receives = [(peer, b"abc")], [(peer, received)]
        if fabric.rank == 0:
            fabric.prepare(sends, receives)(TIMEOUT_S)
        else:
            fabric.exchange(sends, receives, TIMEOUT_S)
        return received

    assert on_ranks(connect(2), work) == [b"abc", b"abc"]
