"""The programs under load, what each of them holds, and its log."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil

from demo import DLLAMA
from soak.held import Held

START_S = 60.0
MODEL = "demo"
_TRACEBACK_LINES = 60


@dataclasses.dataclass(frozen=True)
class Figures(Held):
    """And the size of its log."""

    log_kb: float


class Program:
    """A dllama process whose output goes to a file, and which can be started again with the same arguments."""

    def __init__(self, name: str, folder: Path, arguments: Sequence[object], listens: str) -> None:
        """`listens` is the pattern of the line that says where it listens; its first group is the address."""
        self.name = name
        self._arguments = [str(argument) for argument in arguments]
        self._log = folder / f"{name}.log"
        self._listens = re.compile(listens)
        self.process = self._start()
        self.address = self._address()

    def start_again(self, *, port: int) -> None:
        """After its end: a new process on the same port."""
        at = self._arguments.index("--port") + 1
        self._arguments[at] = str(port)
        self._log.write_bytes(b"")
        self.process = self._start()
        self.address = self._address()

    @property
    def port(self) -> int:
        return int(self.address.rpartition(":")[2].rstrip("/"))

    def signal(self, number: signal.Signals) -> None:
        os.kill(self.process.pid, number)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def figures(self) -> Figures:
        held = Held.of(psutil.Process(self.process.pid))
        return Figures(**vars(held), log_kb=self._log.stat().st_size / 1e3)

    def log_tail(self, n_lines: int = 12) -> str:
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-n_lines:])

    def tracebacks(self) -> list[str]:
        """Those in the log, each with the line before it and the error at its end."""
        lines = self._log.read_text(errors="replace").splitlines()
        begins = [number for number, line in enumerate(lines) if line.startswith("Traceback")]
        return ["\n".join(lines[max(begin - 1, 0) : begin + _TRACEBACK_LINES]) for begin in begins]

    def _start(self) -> subprocess.Popen[bytes]:
        with self._log.open("ab") as log:
            return subprocess.Popen([*DLLAMA, *self._arguments], stdout=log, stderr=log)

    def _address(self) -> str:
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline and self.process.poll() is None:
            if found := self._listens.search(self._log.read_text(errors="replace")):
                return found[1]
            time.sleep(0.05)
        raise SystemExit(f"{self.name} did not start:\n{self.log_tail()}")


class Cluster:
    """Two workers with the API over them, and a third worker for roots that come and go."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.steady, self.mortal, self.spare = (self._worker(name) for name in ("steady", "mortal", "spare"))
        self.api = Program(
            "api",
            folder,
            [
                "api", "--host", "127.0.0.1", "--port", 0, "--nthreads", 1, "--model-name", MODEL, "--parallel", 4,
                "--workers", self.steady.address, self.mortal.address,
            ],
            r"is served on (http://\S+)",
        )  # fmt: skip

    @property
    def watched(self) -> list[Program]:
        """Who has to be at the end as at the start; the mortal worker is killed and replaced on the way."""
        return [self.api, self.steady, self.spare]

    def close(self) -> None:
        for program in (self.api, self.steady, self.mortal, self.spare):
            with contextlib.suppress(ProcessLookupError):
                program.signal(signal.SIGCONT)
            program.kill()

    def _worker(self, name: str) -> Program:
        arguments = ["worker", "--host", "127.0.0.1", "--port", 0, "--nthreads", 1]
        return Program(name, self._folder, arguments, r"listens on (127\.0\.0\.1:\d+)")


@contextlib.contextmanager
def running_cluster(folder: Path) -> Iterator[Cluster]:
    cluster = Cluster(folder)
    try:
        yield cluster
    finally:
        cluster.close()
