"""Every test here runs on every transport: threads, TCP over loopback, processes under mpiexec.

On the last also with every exchange prepared: there that is another way to MPI.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from dllama.fabric.base import Fabric
from dllama.fabric.local import local_fabrics
from dllama.fabric.tcp import TcpFabric, TcpPeer
from support.mpi_ranks import MpiRanks, mpiexec

JOIN_S = 30.0
"""A rank that is not through by then hangs."""


def tcp_fabrics(n_ranks: int) -> list[Fabric]:
    """A full mesh over loopback, all of it in this process."""
    peers: list[dict[int, TcpPeer]] = [{} for _ in range(n_ranks)]
    with socket.create_server(("127.0.0.1", 0)) as listener:
        for high in range(n_ranks):
            for low in range(high):
                calling = socket.create_connection(listener.getsockname())
                called, _ = listener.accept()
                peers[high][low] = TcpPeer(calling, f"127.0.0.1:{9990 + low}")
                peers[low][high] = TcpPeer(called, f"127.0.0.1:{9990 + high}")
    return [TcpFabric(rank, peers[rank]) for rank in range(n_ranks)]


@pytest.fixture(scope="session")
def mpi_ranks() -> Iterator[MpiRanks]:
    """One job for all tests that leave its processes alive."""
    if mpiexec() is None:
        pytest.skip("no mpiexec or no mpi4py: pip install 'dllama[mpi]' mpich")
    ranks = MpiRanks()
    yield ranks
    ranks.close()


class EachPrepared:
    """See Fabric: one that prepares what it exchanges."""

    def __init__(self, fabric: Fabric) -> None:
        self._fabric = fabric

    def exchange(self, sends: Any, receives: Any, timeout_s: float | None) -> None:
        self._fabric.prepare(sends, receives)(timeout_s)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._fabric, name)


@pytest.fixture(params=["tcp", "local", "mpi", "mpi-prepared"])
def connect(request: pytest.FixtureRequest) -> Iterator[Callable[[int], list[Fabric]]]:
    """connect(n_ranks) gives the fabrics of all ranks; they are closed when the test is over."""
    open_some: Callable[[int], Sequence[Fabric]]
    if request.param.startswith("mpi"):
        open_some = request.getfixturevalue("mpi_ranks").connect
    else:
        open_some = {"tcp": tcp_fabrics, "local": local_fabrics}[request.param]
    opened: list[Fabric] = []

    def open_fabrics(n_ranks: int) -> list[Fabric]:
        fabrics = list(open_some(n_ranks))
        if request.param == "mpi-prepared":
            fabrics = [EachPrepared(fabric) for fabric in fabrics]
        opened.extend(fabrics)
        return fabrics

    yield open_fabrics
    for fabric in opened:
        fabric.close()


@pytest.fixture
def on_ranks() -> Callable[..., list[Any]]:
    """on_ranks(fabrics, work) calls work(fabric) for each in a thread of its own.

    Returns what the calls returned, by rank; raises what the first failed rank raised.
    """

    def run(fabrics: Sequence[Fabric], work: Callable[[Fabric], Any]) -> list[Any]:
        results: list[Any] = [None] * len(fabrics)
        failures: list[BaseException | None] = [None] * len(fabrics)

        def one(index: int) -> None:
            try:
                results[index] = work(fabrics[index])
            except BaseException as failure:
                failures[index] = failure

        threads = [threading.Thread(target=one, args=(index,), daemon=True) for index in range(len(fabrics))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(JOIN_S)
        hanging = [index for index, thread in enumerate(threads) if thread.is_alive()]
        assert not hanging, f"ranks {hanging} hang"
        for failure in failures:
            if failure is not None:
                raise failure
        return results

    return run
