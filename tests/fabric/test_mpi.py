"""What only MPI has: processes that mpiexec starts and ends."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from dllama.errors import PeerLostError, PeerTimeoutError
from dllama.fabric.launch import launched_rank
from support.mpi_ranks import MpiRanks, mpiexec

TIMEOUT_S = 20.0
needs_mpi = pytest.mark.skipif(
    mpiexec() is None, reason="no mpiexec or no mpi4py: pip install 'dllama[mpi]' mpich"
)


@pytest.fixture
def survivors() -> Iterator[MpiRanks]:
    """Three ranks that mpiexec lets live on when one of them ends."""
    ranks = MpiRanks(3, "-disable-auto-cleanup")
    yield ranks
    ranks.kill()


@pytest.mark.parametrize(
    ("environment", "rank"),
    [
        ({}, None),
        ({"PMI_RANK": "0", "PMI_SIZE": "4"}, 0),
        ({"PMIX_RANK": "3"}, 3),
        ({"OMPI_COMM_WORLD_RANK": "12"}, 12),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "4"}, None),  # the shell of an allocation
        ({"PMI_RANK": "none"}, None),
    ],
)
def test_launched_rank(environment: dict[str, str], rank: int | None) -> None:
    assert launched_rank(environment) == rank


@needs_mpi
def test_a_process_that_dies_before_is_a_timeout_that_names_it(survivors: MpiRanks) -> None:
    """MPI does not say that a peer has died, so the deadline has to."""
    root, other, dead = survivors.connect(3)
    dead.die()
    with pytest.raises((PeerTimeoutError, PeerLostError), match=r"process 2 on .*4352 bytes from it"):
        root.exchange([(2, bytes(4352))], [(2, bytearray(4352))], 0.2)
    with pytest.raises((PeerTimeoutError, PeerLostError), match="process 2 on"):
        other.exchange([], [(2, bytearray(1))], 0.2)


@needs_mpi
def test_a_process_that_dies_within_and_after(survivors: MpiRanks) -> None:
    root, other, dead = survivors.connect(3)
    dead.exchange([(0, bytes(1000)), (1, bytes(1000))], [], TIMEOUT_S)
    dead.die()
    with pytest.raises((PeerTimeoutError, PeerLostError), match=r"process 2 on .*3352 bytes from it"):
        root.exchange([], [(2, bytearray(1000)), (2, bytearray(3352))], 1.0)
    other.exchange([], [(2, bytearray(1000))], TIMEOUT_S)  # what was sent before arrives
    with pytest.raises((PeerTimeoutError, PeerLostError), match="process 2 on"):
        other.exchange([], [(2, bytearray(1))], 0.2)


@needs_mpi
def test_mpiexec_ends_the_job_of_a_process_that_died() -> None:
    ranks = MpiRanks(3)
    root, _, dead = ranks.connect(3)
    dead.die()
    with pytest.raises((EOFError, ConnectionError)):
        root.exchange([], [(2, bytearray(1))], None)
    assert ranks.process.wait(TIMEOUT_S) != 0
    ranks.kill()


@needs_mpi
def test_a_long_wait_needs_little_of_a_core() -> None:
    ranks = MpiRanks(2)
    root, worker = ranks.connect(2)
    before_s, started = root.cpu_s, time.monotonic()
    with pytest.raises(PeerTimeoutError):
        root.exchange([], [(1, bytearray(1))], 1.0)
    assert root.cpu_s - before_s < 0.05 * (time.monotonic() - started)
    assert worker.rank == 1
    ranks.close()


@needs_mpi
def test_prepared_exchanges_that_were_dropped_take_no_memory() -> None:
    ranks = MpiRanks(2)
    root, worker = ranks.connect(2)
    root.prepare_and_drop(1, 1000)
    assert root.prepare_and_drop(1, 10_000) < 1_000_000  # else MPI would keep 500 bytes of each message
    with pytest.raises((TypeError, BufferError)):
        root.prepare([], [(1, bytearray(2)), (1, bytes(2))])
    received = bytearray(5)
    root.prepare([(1, b"words")], [])(TIMEOUT_S)
    worker.exchange([], [(0, received)], TIMEOUT_S)
    assert received == b"words"
    ranks.close()
