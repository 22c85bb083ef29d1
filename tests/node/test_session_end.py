"""A session's end frees all that the session owned, whatever ended it, without the garbage collector's help."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from dllama.fabric import listen
from dllama.kernels import Cpu
from dllama.model import CacheStorage
from dllama.node import Address, NodeSettings, Worker
from support.owned import left_since, no_collector, owned
from support.session_root import ENDS, Ending, run_session, small_plan

N_TIMES = 3

WAYS = [
    pytest.param(
        phase,
        ending,
        id=f"{phase}, {ending.__name__}",
        marks=[pytest.mark.slow] if ending is not quick else [],
    )
    for n, (phase, (_, endings)) in enumerate(ENDS.items())
    for quick in [endings[n % len(endings)]]
    for ending in endings
]
"""Every ending in every phase; one of each phase, another one in the next, is not slow."""


class OwnWorker:
    """A worker that serves one root at a time in the test's own thread, and the roots in another one."""

    def __init__(self, folder: Path) -> None:
        listener = listen("127.0.0.1", 0)
        self.address = Address("127.0.0.1", listener.getsockname()[1])
        settings = NodeSettings(kv_storage=CacheStorage.DISK, kv_directory=folder)
        self._worker = Worker(listener, Cpu(1), settings, lambda line: None)
        self._caller = ThreadPoolExecutor(1)
        self._plan = small_plan()

    def serve(self, phase: str, ending: Ending) -> None:
        """A session from its beginning until both sides have ended it."""
        called = self._caller.submit(run_session, self.address, self._plan, phase, ending)
        self._worker.serve_one()
        called.result()

    def close(self) -> None:
        self._worker.close()
        self._caller.shutdown()


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OwnWorker]:
    own = OwnWorker(tmp_path_factory.mktemp("cache"))
    yield own
    own.close()


@pytest.mark.parametrize(("phase", "ending"), WAYS)
def test_nothing_is_left_of_a_session(worker: OwnWorker, phase: str, ending: Ending) -> None:
    with no_collector():
        worker.serve(phase, ending)
        gc.collect()  # what is made once and kept
        before = owned()
        for _ in range(N_TIMES):
            worker.serve(phase, ending)
        assert left_since(before) == {}
