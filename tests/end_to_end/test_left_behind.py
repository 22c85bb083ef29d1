"""Worker processes after hundreds of sessions that ended in all ways hold what they held after the first of each."""

from __future__ import annotations

import contextlib
import dataclasses
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from dllama.node import Address
from support.processes import environment, wait_until
from support.session_root import ENDS, run_session, small_plan

N_TIMES = 20
CACHE_PAGES = 1 << 14
CACHE_MB = 32
"""The pages together: sessions that are kept are seen in the address space, beside an arena of malloc's (64 MB) and
stacks of threads (8 MB each) that come and go."""

_PROGRAM = "import gc; gc.disable(); from dllama.cli.start import run; run()"


@dataclasses.dataclass(frozen=True)
class Held:
    """What a process holds."""

    resident_mb: float
    mapped_mb: float
    threads: int
    descriptors: int
    mapped_files: int

    @classmethod
    def of(cls, process: psutil.Process) -> Held:
        memory = process.memory_info()
        files = [of_map.path for of_map in process.memory_maps(grouped=False) if "dllama-kv-" in of_map.path]
        return cls(memory.rss / 1e6, memory.vms / 1e6, process.num_threads(), process.num_fds(), len(files))


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
            yield psutil.Process(worker.pid), Address(host, int(port))
        finally:
            worker.kill()


def is_idle(worker: psutil.Process, started: Held) -> bool:
    """Whether it has as few threads and descriptors as before its first session."""
    now = Held.of(worker)
    return now.threads <= started.threads and now.descriptors <= started.descriptors


@pytest.mark.slow
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
        assert after.mapped_files == 0
        assert after.resident_mb - before.resident_mb < 8
        assert after.mapped_mb - before.mapped_mb < N_TIMES * CACHE_MB / 4
