"""dllama as people run it: real processes over loopback, none of which outlives the test that started it."""

from __future__ import annotations

import atexit
import contextlib
import dataclasses
import functools
import os
import re
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO

import psutil

import dllama
from support.fork_server import ForkServer

DLLAMA = (sys.executable, "-m", "dllama")
DEMO_MODEL = Path(dllama.__file__).parent / "demo_model"
TIMEOUT_S = 60.0
"""No command of a test takes this long, also on a busy computer: who waits longer waits for nothing."""


@dataclasses.dataclass(frozen=True)
class Finished:
    """What a command left: its exit code and all that it printed."""

    code: int
    out: str
    err: str

    @property
    def error_line(self) -> str:
        """The one line that says what went wrong; notes may stand before it. Asserts that it is the only one."""
        lines = self.err.splitlines()
        errors = [line for line in lines if line.startswith("dllama")]
        assert len(errors) == 1, self
        assert lines[-1] == errors[0], self
        assert "Traceback" not in self.err + self.out, self
        return errors[0]


def run_dllama(
    *arguments: object,
    stdin: str | bytes = "",
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    timeout_s: float = TIMEOUT_S,
) -> Finished:
    """Runs `dllama ARGUMENTS` to its end; `env` is added to the environment. Output that is no UTF-8 is there as
    halves of surrogate pairs."""
    with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        given.write(stdin.encode() if isinstance(stdin, str) else stdin)
        given.seek(0)
        streams = [file.fileno() for file in (given, out, err)]
        process = _server().start([*map(str, arguments)], environment(env), cwd, streams)
        try:
            code = process.wait(timeout_s)
        except TimeoutError:
            process.send_signal(signal.SIGKILL)
            raise
        out.seek(0)
        err.seek(0)
        return Finished(code, out.read().decode(errors="surrogateescape"), err.read().decode())


@functools.cache
def _server() -> ForkServer:
    server = ForkServer()
    atexit.register(server.close)
    return server


def run_well(*arguments: object, **options: object) -> Finished:
    """run_dllama of a command that succeeds."""
    done = run_dllama(*arguments, **options)  # type: ignore[arg-type]
    assert done.code == 0, done
    return done


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """This process's environment without what would change dllama, with UTF-8, a state directory of the tests' own,
    and with `extra`."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("DLLAMA_")}
    kept["XDG_STATE_HOME"] = _state_directory()
    return kept | {"PYTHONIOENCODING": "utf-8"} | dict(extra or {})


@functools.cache
def _state_directory() -> str:
    """Where the conversations of chats go that do not say."""
    directory = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    return directory


class Running:
    """A dllama process under way, whose lines are read as they come. Use it as a context manager."""

    def __init__(self, *arguments: object, env: Mapping[str, str] | None = None) -> None:
        (out, out_end), (err, err_end) = os.pipe(), os.pipe()
        nothing = os.open(os.devnull, os.O_RDONLY)
        self._process = _server().start(
            [*map(str, arguments)], environment(env), None, [nothing, out_end, err_end]
        )
        for descriptor in (nothing, out_end, err_end):
            os.close(descriptor)
        self.out = _Lines(open(out, "rb"))  # noqa: SIM115 - closed in __exit__
        self.err = _Lines(open(err, "rb"))  # noqa: SIM115

    @property
    def pid(self) -> int:
        return self._process.pid

    def pause(self) -> None:
        """Takes the processor away from it, in the middle of whatever it does."""
        self._process.send_signal(signal.SIGSTOP)
        wait_until(lambda: psutil.Process(self.pid).status() == psutil.STATUS_STOPPED)

    def go_on(self) -> None:
        """After `pause`."""
        self._process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """Ends it without giving it a chance to tidy up."""
        self._process.send_signal(signal.SIGKILL)
        self._process.wait(TIMEOUT_S)

    def interrupt(self) -> None:
        self._process.send_signal(signal.SIGINT)

    def terminate(self) -> None:
        self._process.send_signal(signal.SIGTERM)

    def finish(self, timeout_s: float = TIMEOUT_S) -> Finished:
        """Waits for its end."""
        code = self._process.wait(timeout_s)
        return Finished(code, self.out.all(), self.err.all())

    def __enter__(self) -> Running:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
        self.out.close()
        self.err.close()


class _Lines:
    """Reads a pipe to its end in a thread, so that nobody who writes to it is held up."""

    def __init__(self, pipe: IO[bytes]) -> None:
        self._pipe = pipe
        self._lines: list[str] = []
        self._rest = ""  # of a line that has no end yet
        self._changed = threading.Condition()
        self._at_end = False
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def wait_for_text(self, text: str) -> None:
        """Waits until it is written, also in a line that has no end yet. Asserts that it comes."""
        with self._changed:
            self._changed.wait_for(
                lambda: text in "".join([*self._lines, self._rest]) or self._at_end, TIMEOUT_S
            )
            assert text in "".join([*self._lines, self._rest])

    def wait_for(self, pattern: str, n: int = 1, timeout_s: float = TIMEOUT_S) -> re.Match[str]:
        """The `n`th line in which `pattern` is found. Asserts that it comes."""
        with self._changed:
            self._changed.wait_for(lambda: len(self._found(pattern)) >= n or self._at_end, timeout_s)
            found = self._found(pattern)
            assert len(found) >= n, f"no {pattern!r} number {n} in:\n{''.join(self._lines)}"
            return found[n - 1]

    def count(self, pattern: str) -> int:
        with self._changed:
            return len(self._found(pattern))

    def all(self) -> str:
        """Everything, once the pipe is closed."""
        self._thread.join(TIMEOUT_S)
        return "".join(self._lines)

    def close(self) -> None:
        self._thread.join(TIMEOUT_S)
        self._pipe.close()

    def _found(self, pattern: str) -> list[re.Match[str]]:
        return [found for line in self._lines if (found := re.search(pattern, line))]

    def _read(self) -> None:
        unread = b""
        while data := os.read(self._pipe.fileno(), 1 << 16):
            *lines, unread = (unread + data).split(b"\n")
            with self._changed:
                self._lines += [f"{line.decode()}\n" for line in lines]
                self._rest = unread.decode(errors="ignore")
                self._changed.notify_all()
        self._rest = ""
        self._lines += [unread.decode()] if unread else []
        with self._changed:
            self._at_end = True
            self._changed.notify_all()


class WorkerProcess(Running):
    """`dllama worker` on a free port of loopback."""

    def __init__(self, *arguments: object) -> None:
        super().__init__("worker", "--host", "127.0.0.1", "--port", 0, "--nthreads", 1, *arguments)
        self._address = ""

    @property
    def address(self) -> str:
        """Waits until it listens."""
        self._address = self._address or self.err.wait_for(r"listens on (\S+)")[1]
        return self._address

    def wait_until_free(self, n_served: int) -> None:
        """Until it has served so many roots and waits for the next."""
        self.err.wait_for(r"is (done|gone)", n_served)


class WorkerPool:
    """Workers that many tests use one after the other, started when they are first wanted."""

    def __init__(self) -> None:
        self._workers: list[WorkerProcess] = []

    def take(self, n: int) -> list[WorkerProcess]:
        """`n` workers that live and serve nobody. Who kills one should start its own."""
        self._workers += [WorkerProcess() for _ in range(n - len(self._workers))]
        return self._workers[:n]

    def addresses(self, n: int) -> list[str]:
        return [worker.address for worker in self.take(n)]

    def close(self) -> None:
        for worker in self._workers:
            with worker:
                pass


@contextlib.contextmanager
def worker_processes(n: int, *arguments: object) -> Iterator[list[WorkerProcess]]:
    """`n` workers of the test's own."""
    with contextlib.ExitStack() as stack:
        workers = [WorkerProcess(*arguments) for _ in range(n)]
        for worker in workers:
            stack.enter_context(worker)
        for worker in workers:
            assert worker.address
        yield workers


def inference(*arguments: object, workers: Sequence[str] = (), steps: int | None = 24) -> list[object]:
    """Arguments of a greedy run on one thread for each node; `arguments` come last and win."""
    command: list[object] = ["inference", "--prompt", "Once upon a time", "--temperature", 0, "--nthreads", 1]
    if steps is not None:
        command += ["--steps", steps]
    if workers:
        command += ["--workers", *workers]
    return [*command, *arguments]


def wait_until(condition: Callable[[], bool], timeout_s: float = TIMEOUT_S) -> None:
    """Polls `condition()` where nothing tells of a change (a file that another process removes)."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.01)
