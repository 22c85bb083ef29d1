"""A node vanishes: the rest say so at once, in one line, and workers are there for the next root."""

from __future__ import annotations

import contextlib
import shutil
import socket
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from dllama.checkpoint import convert_model, open_checkpoint
from dllama.dtypes import ElementType
from dllama.formats.m_file import MFile
from support import fake_nodes
from support.endless import endless
from support.processes import (
    DEMO_MODEL,
    Running,
    WorkerProcess,
    inference,
    run_dllama,
    run_well,
    worker_processes,
)

SILENCE_S = 2
"""The shortest that a node may be silent."""

PROMPTLY_S = 10.0
"""Far below the 60 s that a step may take, far above what a lost connection needs to be seen."""


@contextlib.contextmanager
def mid_step(*workers: WorkerProcess, silence_s: float = 60) -> Iterator[Running]:
    """A root in the middle of a step that cannot end: its last worker is stopped."""
    addresses = [worker.address for worker in workers]
    with Running(*endless(workers=addresses), "--peer-timeout", silence_s) as root:
        root.out.wait_for("Pred", 3)
        workers[-1].pause()
        yield root


@pytest.fixture(scope="module")
def survivor() -> Iterator[WorkerProcess]:
    """A worker that sees everything that happens to others here, and must serve on after all of it."""
    with worker_processes(1) as (worker,):
        yield worker
        assert run_well(*inference(workers=[worker.address], steps=8)).code == 0


def test_a_worker_dies_in_a_step(survivor: WorkerProcess) -> None:
    n_gone = survivor.err.count("is gone")
    with worker_processes(1) as (victim,), mid_step(survivor, victim) as root:
        start = time.monotonic()
        victim.kill()
        done = root.finish(PROMPTLY_S)
        assert time.monotonic() - start < PROMPTLY_S
        assert done.code == 1
        assert f"lost worker {victim.address} (rank 2)" in done.error_line
    survivor.err.wait_for("is gone", n_gone + 1, PROMPTLY_S)
    run_well(*inference(workers=[survivor.address], steps=8))


def test_a_worker_that_is_stopped_is_named(survivor: WorkerProcess) -> None:
    """In the middle of a step: by the heartbeat, long before the 60 s of a worker that computes."""
    n_gone = survivor.err.count("is gone")
    with worker_processes(1) as (victim,):
        with mid_step(survivor, victim, silence_s=SILENCE_S) as root:
            done = root.finish(PROMPTLY_S)
            assert done.code == 1
            assert f"lost worker {victim.address} (rank 2): no sign of life" in done.error_line
        survivor.err.wait_for("is gone", n_gone + 1, PROMPTLY_S)
        victim.go_on()
        victim.wait_until_free(1)
        run_well(*inference(workers=[survivor.address, victim.address], steps=8))


def test_a_root_that_is_stopped_holds_no_worker(survivor: WorkerProcess) -> None:
    n_gone = survivor.err.count("is gone")
    with Running(*endless(workers=[survivor.address]), "--peer-timeout", SILENCE_S) as root:
        root.out.wait_for("Pred", 3)
        root.pause()
        said = survivor.err.wait_for("is gone.*", n_gone + 1, PROMPTLY_S)[0]
        assert "(rank 0): no sign of life" in said


def test_a_worker_dies_while_loading(survivor: WorkerProcess) -> None:
    n_gone = survivor.err.count("is gone")
    with fake_nodes.server(fake_nodes.dies_while_loading) as address:
        done = run_dllama(*endless(workers=[survivor.address, address]), timeout_s=PROMPTLY_S)
    assert done.code == 1
    assert f"lost worker {address} (rank 2)" in done.error_line
    survivor.err.wait_for("is gone", n_gone + 1, PROMPTLY_S)


def test_the_root_dies_in_a_step() -> None:
    """Both workers notice, and serve the next root."""
    with worker_processes(2) as workers:
        addresses = [worker.address for worker in workers]
        with Running(*endless(workers=addresses)) as root:
            root.out.wait_for("Pred", 3)
            root.kill()
        for worker in workers:
            worker.err.wait_for("is gone", 1, PROMPTLY_S)
        run_well(*inference(workers=addresses, steps=8))


def test_the_root_is_interrupted() -> None:
    with worker_processes(1) as (worker,):
        with Running(*endless(workers=[worker.address])) as root:
            root.out.wait_for("Pred", 3)
            root.interrupt()
            done = root.finish(PROMPTLY_S)
        assert done.code == 130
        assert "Traceback" not in done.err
        worker.wait_until_free(1)


@pytest.mark.parametrize("signal_name", ["terminate", "interrupt"])
def test_a_worker_is_told_to_end(signal_name: str) -> None:
    with worker_processes(1) as (worker,):
        getattr(worker, signal_name)()
        done = worker.finish(PROMPTLY_S)
        assert done.code == {"terminate": 143, "interrupt": 130}[signal_name]
        assert "Traceback" not in done.err


def test_a_caller_that_says_nothing_holds_nobody_up(survivor: WorkerProcess) -> None:
    """Someone connects and is silent, another one sends what is no greeting: roots are served all the while."""
    host, port = survivor.address.split(":")
    with socket.create_connection((host, int(port))), socket.create_connection((host, int(port))) as stranger:
        stranger.sendall(b"GET / HTTP/1.1\r\n\r\n")
        stranger.settimeout(PROMPTLY_S)
        with contextlib.suppress(ConnectionResetError):
            assert stranger.recv(100) == b""  # sent away
        run_well(*inference(workers=[survivor.address], steps=8))


@pytest.mark.skipif(not hasattr(psutil.Process, "rlimit"), reason="limits of others are set on Linux alone")
def test_a_worker_without_room_for_connections() -> None:
    """It says so once, serves roots meanwhile, and goes on when there is room."""
    with worker_processes(1) as (worker,), contextlib.ExitStack() as stack:
        run_well(*inference(workers=[worker.address], steps=8))
        process = psutil.Process(worker.pid)
        before = process.rlimit(psutil.RLIMIT_NOFILE)
        n_files = process.num_fds()
        process.rlimit(psutil.RLIMIT_NOFILE, (n_files + 20, before[1]))
        host, port = worker.address.split(":")
        for _ in range(60):
            stack.enter_context(socket.create_connection((host, int(port))))
        worker.err.wait_for("no more connections can be accepted")
        run_well(*inference(workers=[worker.address], steps=8))
        process.rlimit(psutil.RLIMIT_NOFILE, (n_files, before[1]))
        with socket.create_connection((host, int(port))) as refused:
            process.rlimit(psutil.RLIMIT_NOFILE, before)
            refused.sendall(b"GET / HTTP/1.1\r\n\r\n")
            refused.settimeout(PROMPTLY_S)
            with contextlib.suppress(ConnectionResetError):
                assert refused.recv(100) == b""
        run_well(*inference(workers=[worker.address], steps=8))
        assert worker.err.count("no more connections can be accepted") == 1


@pytest.fixture(scope="module")
def m_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "demo_q40.m"
    with contextlib.closing(open_checkpoint(DEMO_MODEL, ElementType.Q40)) as checkpoint:
        convert_model(checkpoint, path)
    return path


@pytest.mark.parametrize("part", ["root", "worker"])
def test_nan_in_the_weights(part: str, m_file: Path, tmp_path: Path, survivor: WorkerProcess) -> None:
    """The head is cut by rows: its first are the root's, its last the worker's."""
    path = tmp_path / "nan.m"
    shutil.copy(m_file, path)
    with contextlib.closing(open_checkpoint(path)) as checkpoint:
        specs = list(checkpoint.model)
    head = specs[-1]
    assert head.name == "head"
    file = MFile(path)
    at = file.header_bytes + sum(spec.n_bytes for spec in specs[:-1])
    row = 3 if part == "root" else head.n_rows - 3
    with path.open("r+b") as spoilt:
        spoilt.seek(at + row * head.row_bytes)
        spoilt.write(struct.pack("<e", float("nan")))  # the scale of the row's first block
    n_served = survivor.err.count("is (done|gone)")
    done = run_dllama(
        *inference("--model", path, "--tokenizer", DEMO_MODEL, workers=[survivor.address]),
        timeout_s=PROMPTLY_S,
    )
    assert done.code == 1
    assert "tensor head holds NaN or infinity" in done.error_line
    assert (f"worker {survivor.address}" in done.error_line) == (part == "worker")
    survivor.wait_until_free(n_served + 1)
