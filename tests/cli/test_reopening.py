"""A session that is lost and opened again in one process leaves nothing behind, without the collector's help."""

from __future__ import annotations

import gc

from dllama.cli.interrupts import Ending
from dllama.cli.main import parse_arguments
from dllama.cli.options import model_options
from dllama.cli.reopening import ReopenedSession
from dllama.cli.session import Session
from dllama.engine import GenerationOptions, SamplingOptions
from dllama.errors import PeerError
from support.owned import left_since, no_collector, owned
from support.processes import WorkerProcess

N_TIMES = 3


def write_until_lost(model: ReopenedSession, session: Session, worker: WorkerProcess) -> None:
    """The worker is killed while a text is being written."""
    options = GenerationOptions(sampling=SamplingOptions(temperature=0), ignore_eos=True)
    engine = session.new_engine()
    engine.submit([1], options, lambda _event: None)
    engine.step()
    with worker:
        worker.kill()
    try:
        while engine.step():
            pass
    except PeerError as error:
        model.lose(error)


def test_nothing_is_left_of_a_lost_session() -> None:
    worker = WorkerProcess()
    port = worker.address.rpartition(":")[2]
    args = parse_arguments(["chat", "--nthreads", "1", "--workers", worker.address])
    args.job = None
    model = ReopenedSession(model_options(args), None, None, Ending())
    with no_collector(), model as session:
        for n in range(1 + N_TIMES):
            write_until_lost(model, session, worker)
            if n == 0:
                gc.collect()  # what is made once and kept
                before = owned()
            assert left_since(before) == {}
            worker = WorkerProcess("--port", port)
            assert worker.address
            session = model.reopen()
    with worker:
        pass
