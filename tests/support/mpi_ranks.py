"""Ranks of a real `mpiexec`, driven from the test's process: what fabrics of other transports are to a test.

Run as a script, under mpiexec, it is one rank: it calls back over a Unix socket and does what it is told.
"""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from collections.abc import Sequence
from multiprocessing.connection import Client, Connection, Listener
from pathlib import Path
from typing import Any

import dllama
from dllama.fabric import Buffer, Fabric, Loss, PreparedExchange, WritableBuffer

N_RANKS = 8
_SOURCE = Path(dllama.__file__).parent.parent


def mpiexec() -> str | None:
    """The MPI launcher beside this Python, or the system's; None without one or without mpi4py."""
    try:
        import mpi4py  # noqa: F401
    except ImportError:
        return None
    return shutil.which(Path(sys.executable).with_name("mpiexec")) or shutil.which("mpiexec")


class MpiRanks:
    """`n_ranks` processes under mpiexec, until `close`."""

    def __init__(self, n_ranks: int = N_RANKS, *mpiexec_flags: str) -> None:
        launcher = mpiexec()
        assert launcher is not None
        with tempfile.TemporaryDirectory() as folder, Listener(f"{folder}/ranks") as listener:
            command = [launcher, *mpiexec_flags, "-n", n_ranks, sys.executable, __file__, listener.address]
            self.process = subprocess.Popen(
                [str(part) for part in command], stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
            )
            pairs: dict[int, dict[str, Connection]] = {}
            for _ in range(2 * n_ranks):
                connection = listener.accept()
                rank, purpose = connection.recv()
                pairs.setdefault(rank, {})[purpose] = connection
        self._ranks = [pairs[rank] for rank in range(n_ranks)]
        self._n_connected = 0

    def connect(self, n_ranks: int) -> list[MpiRank]:
        """Fabrics of the first `n_ranks` ranks."""
        self._n_connected += 1
        ranks = [MpiRank(self._n_connected, rank, n_ranks, self._ranks[rank]) for rank in range(n_ranks)]
        threads = [threading.Thread(target=rank.open) for rank in ranks]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return ranks

    def close(self) -> None:
        """Lets the processes end in good order."""
        self._hang_up()

    def kill(self) -> None:
        """Ends them when one of them is no longer there to take part in that."""
        self.process.terminate()
        self._hang_up()

    def _hang_up(self) -> None:
        for rank in self._ranks:
            for connection in rank.values():
                connection.close()
        self.process.wait(30)
        assert self.process.stderr is not None
        self.process.stderr.close()


class MpiRank:
    """See Fabric: that of a rank in another process."""

    def __init__(self, number: int, rank: int, n_ranks: int, connections: dict[str, Connection]) -> None:
        self._number = number
        self._connections = connections
        self._dropped: list[int] = []
        self.rank = rank
        self.n_ranks = n_ranks

    def open(self) -> None:
        self._ask("work", "open", self.n_ranks)

    def peer_name(self, rank: int) -> str:
        return str(self._ask("look", "peer_name", rank))

    @property
    def sent_bytes(self) -> list[int]:
        return list(self._ask("look", "sent_bytes"))

    @property
    def received_bytes(self) -> list[int]:
        return list(self._ask("look", "received_bytes"))

    @property
    def losses(self) -> dict[int, Loss]:
        return dict(self._ask("look", "losses"))

    @property
    def cpu_s(self) -> float:
        """Processor time that the process has used."""
        return float(self._ask("look", "cpu_s"))

    def exchange(
        self,
        sends: Sequence[tuple[int, Buffer]],
        receives: Sequence[tuple[int, WritableBuffer]],
        timeout_s: float | None,
    ) -> None:
        _fill(receives, self._ask("work", "exchange", _copies(sends), _kinds(receives), timeout_s))

    def prepare(
        self, sends: Sequence[tuple[int, Buffer]], receives: Sequence[tuple[int, WritableBuffer]]
    ) -> PreparedExchange:
        dropped = [self._dropped.pop() for _ in range(len(self._dropped))]
        number = self._ask("work", "prepare", _copies(sends), _kinds(receives), dropped)

        def exchange(timeout_s: float | None) -> None:
            contents = [content for _, content in _copies(sends)]
            _fill(receives, self._ask("work", "exchange_prepared", number, contents, timeout_s))

        weakref.finalize(exchange, self._dropped.append, number)
        return exchange

    def prepare_and_drop(self, peer: int, n_times: int) -> int:
        """Prepares exchanges with `peer` that nobody keeps; returns the bytes that the process grew by."""
        return int(self._ask("work", "prepare_and_drop", peer, n_times))

    def close(self) -> None:
        self._ask("look", "close")

    def die(self) -> None:
        """Ends that process without a word to the others."""
        self._connections["look"].send((self._number, "die", ()))

    def _ask(self, purpose: str, what: str, *arguments: Any) -> Any:
        connection = self._connections[purpose]
        connection.send((self._number, what, arguments))
        answer, failure, cause = connection.recv()
        if failure is not None:
            raise failure from cause
        return answer


def _copies(sends: Sequence[tuple[int, Buffer]]) -> list[tuple[int, bytes]]:
    return [(rank, memoryview(buffer).tobytes()) for rank, buffer in sends]


def _kinds(receives: Sequence[tuple[int, WritableBuffer]]) -> list[tuple[int, int, bool]]:
    views: list[tuple[int, Any]] = [(rank, memoryview(buffer)) for rank, buffer in receives]
    return [(rank, view.nbytes, view.readonly) for rank, view in views]


def _of_kinds(kinds: Sequence[tuple[int, int, bool]]) -> list[tuple[int, Any]]:
    return [(rank, bytes(size) if readonly else bytearray(size)) for rank, size, readonly in kinds]


def _fill(receives: Sequence[tuple[int, WritableBuffer]], contents: Sequence[bytes]) -> None:
    for (_, buffer), content in zip(receives, contents, strict=True):
        if content:
            memoryview(buffer).cast("B")[:] = content


def _serve(path: str) -> None:
    from dllama.fabric.mpi import MpiJob

    job = MpiJob()
    rank = Rank()
    threads = []
    for purpose in ("work", "look"):
        connection = Client(path)
        connection.send((job.rank, purpose))
        threads.append(threading.Thread(target=rank.serve, args=(connection,)))
        threads[-1].start()
    for thread in threads:
        thread.join()
    job.leave()


def _fabric_of_first(n_ranks: int) -> Any:
    """A fabric of fewer ranks than the job has, which only tests want."""
    from mpi4py import MPI

    from dllama.fabric.mpi import MpiFabric

    world = MPI.COMM_WORLD
    return MpiFabric(world.Create_group(world.Get_group().Incl(range(n_ranks))))


def _prepare_and_drop(fabric: Fabric, peer: int, n_times: int) -> int:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(n_times):
        fabric.prepare([(peer, b"word")], [(peer, bytearray(4))])
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024


class Rank:
    """One rank; what waits and what only looks are asked for on connections of their own."""

    def __init__(self) -> None:
        self._fabrics: dict[int, Any] = {}
        self._prepared: dict[int, tuple[PreparedExchange, list[bytearray], list[bytearray]]] = {}
        self._n_prepared = 0

    def serve(self, connection: Connection) -> None:
        while True:
            try:
                number, what, arguments = connection.recv()
            except EOFError:
                return
            try:
                connection.send((self._do(number, what, arguments), None, None))
            except Exception as failure:
                connection.send((None, failure, failure.__cause__))

    def _do(self, number: int, what: str, arguments: Sequence[Any]) -> Any:
        if what == "die":
            os._exit(9)
        if what == "cpu_s":
            return time.process_time()
        if what == "open":
            self._fabrics[number] = _fabric_of_first(*arguments)
            return None
        fabric = self._fabrics[number]
        if what == "exchange":
            sends, kinds, timeout_s = arguments
            receives = _of_kinds(kinds)
            fabric.exchange(sends, receives, timeout_s)
            return [buffer for _, buffer in receives]
        if what == "prepare":
            return self._prepare(fabric, *arguments)
        if what == "prepare_and_drop":
            return _prepare_and_drop(fabric, *arguments)
        if what == "exchange_prepared":
            return self._exchange_prepared(*arguments)
        value = getattr(fabric, what)
        return value(*arguments) if callable(value) else value

    def _prepare(
        self,
        fabric: Any,
        contents: Sequence[tuple[int, bytes]],
        kinds: Sequence[tuple[int, int, bool]],
        dropped: Sequence[int],
    ) -> int:
        for number in dropped:
            del self._prepared[number]
        sends = [(rank, bytearray(content)) for rank, content in contents]
        receives = _of_kinds(kinds)
        exchange = fabric.prepare(sends, receives)
        self._n_prepared += 1
        self._prepared[self._n_prepared] = (
            exchange,
            [buffer for _, buffer in sends],
            [buffer for _, buffer in receives],
        )
        return self._n_prepared

    def _exchange_prepared(
        self, number: int, contents: Sequence[bytes], timeout_s: float | None
    ) -> list[bytearray]:
        exchange, sent, received = self._prepared[number]
        for buffer, content in zip(sent, contents, strict=True):
            memoryview(buffer)[:] = content
        exchange(timeout_s)
        return received


if __name__ == "__main__":
    _serve(sys.argv[1])
