"""A model that is lost and opened again leaves nothing in the API's process, without the garbage collector's help."""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import queue
from collections.abc import Iterator
from typing import Any

import pytest

from dllama.cli.main import parse_arguments
from dllama.cli.options import model_options
from dllama.cli.session import open_session
from dllama.engine import EngineService, Event, GenerationOptions, SamplingOptions, TextDelta
from dllama.errors import PeerLostError
from dllama.node import Address
from dllama.server.errors import ApiError
from dllama.server.keeper import ModelKeeper
from support.owned import left_since, no_collector, owned
from support.processes import TIMEOUT_S, WorkerProcess, wait_until

N_TIMES = 3


class ServedOnWorker:
    """A model on this process and a worker, which is killed again and again. Use it as a context manager."""

    def __init__(self) -> None:
        self._worker = WorkerProcess()
        args = parse_arguments(["api", "--nthreads", "1", "--workers", "127.0.0.1:1"])
        args.job = None
        self._options = model_options(args)
        self.keeper = ModelKeeper(self._open, lambda line: None, retry_s=0.01)

    @contextlib.contextmanager
    def _open(self) -> Iterator[Any]:
        host, port = self._worker.address.split(":")
        options = dataclasses.replace(self._options, workers=(Address(host, int(port)),))
        with (
            open_session(options, None) as session,
            contextlib.closing(
                EngineService(session.cluster, session.tokenizer, n_parallel=2, max_queued=2, max_seq_len=256)
            ) as service,
        ):
            yield _Model(service, session.cluster.nodes)

    def lose(self, *, is_writing: bool) -> None:
        """Until the model is there again."""
        model = self.keeper.served()
        inbox: queue.SimpleQueue[Event] = queue.SimpleQueue()
        if is_writing:
            model.service.submit([1], endless(), inbox.put)
            assert isinstance(inbox.get(timeout=TIMEOUT_S), TextDelta)
        lost, self._worker = self._worker, WorkerProcess()
        with lost:
            lost.kill()
        if not is_writing:
            with contextlib.suppress(PeerLostError):  # when it has been noticed before
                model.service.submit([1], endless(), inbox.put)
        wait_until(lambda: self.is_there_after(model))

    def is_there_after(self, former: Any) -> bool:
        with contextlib.suppress(ApiError):
            return self.keeper.served() is not former
        return False

    def __enter__(self) -> ServedOnWorker:
        self.keeper.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self.keeper.__exit__(*error)
        with self._worker:
            pass


class _Model:
    def __init__(self, service: EngineService, nodes: Any) -> None:
        self.service, self.nodes = service, nodes


def endless() -> GenerationOptions:
    return GenerationOptions(sampling=SamplingOptions(temperature=0), ignore_eos=True)


@pytest.mark.parametrize("is_writing", [False, True], ids=["idle", "writing"])
@pytest.mark.slow
def test_nothing_is_left_of_a_lost_model(is_writing: bool) -> None:
    with no_collector(), ServedOnWorker() as served:
        served.lose(is_writing=is_writing)
        gc.collect()
        before = owned()
        for _ in range(N_TIMES):
            served.lose(is_writing=is_writing)
        assert left_since(before) == {}
