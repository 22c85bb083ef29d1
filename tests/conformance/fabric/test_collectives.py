from __future__ import annotations

import numpy as np
import pytest

from dllama.fabric.collectives import (
    all_gather,
    all_to_all,
    broadcast,
    exchange_all,
    gather,
    scattered_broadcast,
)

TIMEOUT_S = 20.0
RANKS = pytest.mark.parametrize("n_ranks", [1, 2, 3, 8])


def own_part(rank: int) -> np.ndarray:
    """[5 * rank] uint8: rank 0 has nothing."""
    return np.full(5 * rank, rank, np.uint8)


@pytest.mark.parametrize("n_bytes", [0, 3, 100_001])
@pytest.mark.parametrize(("n_ranks", "root"), [(1, 0), (2, 1), (3, 0), (8, 5)])
def test_scattered_broadcast(connect, on_ranks, n_ranks, root, n_bytes):
    sent = np.random.default_rng(n_bytes).integers(0, 256, n_bytes, np.uint8)

    def work(fabric):
        buffer = sent.copy() if fabric.rank == root else np.zeros_like(sent)
        scattered_broadcast(fabric, buffer, root, TIMEOUT_S)
        return buffer, sum(fabric.sent_bytes)

    for rank, (buffer, n_sent) in enumerate(on_ranks(connect(n_ranks), work)):
        np.testing.assert_array_equal(buffer, sent)
        if n_ranks > 1:
            assert n_sent <= n_bytes + n_ranks, f"rank {rank}"


@RANKS
@pytest.mark.parametrize("root_from_end", [0, 1])
def test_broadcast(connect, on_ranks, n_ranks, root_from_end):
    root = (n_ranks - 1) * root_from_end

    def work(fabric):
        buffer = np.full(100, fabric.rank, np.int32)
        broadcast(fabric, buffer, root, TIMEOUT_S)
        return buffer

    for buffer in on_ranks(connect(n_ranks), work):
        assert (buffer == root).all()


@RANKS
def test_gather_of_uneven_parts(connect, on_ranks, n_ranks):
    def work(fabric):
        parts = [np.zeros_like(own_part(rank)) for rank in range(n_ranks)] if fabric.rank == 0 else []
        gather(fabric, own_part(fabric.rank), parts, 0, TIMEOUT_S)
        return parts

    for rank, part in enumerate(on_ranks(connect(n_ranks), work)[0]):
        np.testing.assert_array_equal(part, own_part(rank))


@RANKS
def test_all_gather_of_uneven_parts(connect, on_ranks, n_ranks):
    expected = np.concatenate([own_part(rank) for rank in range(n_ranks)])

    def work(fabric):
        start = sum(5 * rank for rank in range(fabric.rank))
        whole = np.zeros_like(expected)
        whole[start : start + 5 * fabric.rank] = fabric.rank
        all_gather(fabric, whole, [5 * rank for rank in range(n_ranks)])(TIMEOUT_S)
        return whole

    for whole in on_ranks(connect(n_ranks), work):
        np.testing.assert_array_equal(whole, expected)


@RANKS
def test_exchange_all(connect, on_ranks, n_ranks):
    def work(fabric):
        received = [None if rank == fabric.rank else np.zeros(3, np.float32) for rank in range(n_ranks)]
        exchange_all(fabric, np.full(3, fabric.rank, np.float32), received)(TIMEOUT_S)
        return received

    for rank, received in enumerate(on_ranks(connect(n_ranks), work)):
        for peer, buffer in enumerate(received):
            assert (buffer is None) if peer == rank else (buffer == peer).all()


@RANKS
def test_all_to_all(connect, on_ranks, n_ranks):
    def work(fabric):
        received = [None if rank == fabric.rank else bytearray(2) for rank in range(n_ranks)]
        parts = [bytes([fabric.rank, rank]) for rank in range(n_ranks)]
        all_to_all(fabric, parts, received)(TIMEOUT_S)
        return received

    for rank, received in enumerate(on_ranks(connect(n_ranks), work)):
        for peer, buffer in enumerate(received):
            assert buffer == (None if peer == rank else bytes([peer, rank]))
