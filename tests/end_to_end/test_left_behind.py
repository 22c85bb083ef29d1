"""Worker processes after hundreds of sessions that ended in all ways hold what they held after the first of each."""

from __future__ import annotations

import contextlib
import dataclasses
import platform
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from dllama.model import ModelSpec
from dllama.node import Address
from soak.held import Held, is_told
from support.processes import environment, wait_until, worker_processes
from support.session_root import ENDS, SessionRoot, run_session, small_plan

N_TIMES = 20
CACHE_PAGES = 1 << 14
CACHE_MB = 32
"""The pages together: sessions that are kept are seen in the address space, beside an arena of malloc's (64 MB) and
stacks of threads (8 MB each) that come and go."""

N_LAYERS = 2048
LAYERS_BYTES = 150_000_000
"""Of a worker's packed matrices, at least; what Python keeps for the next session is far less."""

_PROGRAM = "import gc; gc.disable(); from dllama.cli.start import run; run()"


@contextlib.contextmanager
def worker_without_collector(folder: Path, *arguments: object) -> Iterator[tuple[psutil.Process, Address]]:
    command = [
        sys.executable,
        "-c",
        _PROGRAM,
        "worker",
        "--host",
        "127.0.0.1",
        "--port",
        "0",
        "--nthreads",
        "1",
    ]
    log = folder / "worker.log"
    with (
        log.open("w") as file,
        subprocess.Popen([*command, *map(str, arguments)], stderr=file, env=environment()) as worker,
    ):
        try:
            wait_until(lambda: "listens on" in log.read_text())
            host, port = re.findall(r"listens on ([\d.]+):(\d+)", log.read_text())[0]
            await_door((host, int(port)))
            yield psutil.Process(worker.pid), Address(host, int(port))
        finally:
            worker.kill()


def await_door(address: tuple[str, int]) -> None:
    """Until the thread runs that answers callers: it sends one away who is no node."""
    with socket.create_connection(address) as stranger, contextlib.suppress(ConnectionResetError):
        stranger.sendall(b"GET / HTTP/1.1\r\n\r\n")
        while stranger.recv(1000):
            pass


def is_idle(worker: psutil.Process, started: Held) -> bool:
    """Whether it has as few threads and descriptors as before its first session."""
    now = Held.of(worker)
    return now.threads <= started.threads and now.descriptors <= started.descriptors


@pytest.mark.slow
@pytest.mark.skipif(not is_told(), reason="this system does not tell what a process holds")
@pytest.mark.parametrize("storage", ["ram", "disk"])
def test_a_worker_is_as_at_the_start(storage: str, tmp_path: Path) -> None:
    plan = small_plan(CACHE_PAGES)
    ways = [(phase, ending) for phase, (_, endings) in ENDS.items() for ending in endings]
    storage_flags = ("--kv-cache-storage", storage, "--kv-cache-dir", tmp_path)
    with worker_without_collector(tmp_path, *storage_flags) as (worker, address):
        started = Held.of(worker)
        for phase, ending in ways:
            run_session(address, plan, phase, ending)
        wait_until(lambda: is_idle(worker, started))
        before = Held.of(worker)
        for phase, ending in ways:
            for _ in range(N_TIMES):
                run_session(address, plan, phase, ending)
        wait_until(lambda: is_idle(worker, started))
        after = Held.of(worker)
        print(before, after, sep="\n")
        assert after.deleted_files == before.deleted_files
        assert not list(tmp_path.glob("dllama-kv-*"))
        assert after.memory_mb - before.memory_mb < 8
        assert after.mapped_mb - before.mapped_mb < N_TIMES * CACHE_MB / 4


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library keeps no such heaps")
def test_a_large_session_leaves_no_memory_to_the_program() -> None:
    """The C library kept 200 MB of it, which the next root was told are not free."""
    small = small_plan()
    config = dataclasses.replace(small.config, layer_kinds=(0,) * N_LAYERS)
    types = dataclasses.replace(small.model.types, layers=(0,) * N_LAYERS)
    large = dataclasses.replace(small, model=ModelSpec(config, types))
    with worker_processes(1) as (worker,):
        address, process = Address.parse(worker.address), psutil.Process(worker.pid)
        held = []
        for n_served, plan in enumerate((small, large, small), 1):
            root = SessionRoot(address, plan)
            root.join()
            held.append(process.memory_info().rss)
            root.close()
            worker.wait_until_free(n_served)
        first, most, last = held
        assert most > first + LAYERS_BYTES
        assert last < first + LAYERS_BYTES / 4
