"""dllama's commands as real processes that need not import anything: forked from one process that has done so.

Run as a script it is that process. What it gets over its standard input, a socket, are requests: a command's
arguments, environment and directory, with its standard streams and a control socket. On that it answers with
the process id and, later, the exit code; when the other side closes it, the command is killed, so that nothing
outlives who asked for it.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_MAX_REQUEST_BYTES = 1 << 17


def heed_interrupts() -> None:
    """Ctrl-C raises KeyboardInterrupt in this process, also where it is ignored: what a shell's script starts in the
    background inherits that, and hands it on to all that it starts. As `preexec_fn` it does so for a new program."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


class ForkServer:
    """Starts the process on its own; `close` ends it."""

    def __init__(self) -> None:
        self._requests, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, __file__], stdin=theirs.fileno(), stdout=subprocess.DEVNULL
            )

    def start(
        self, arguments: Sequence[str], env: Mapping[str, str], cwd: Path | None, streams: Sequence[int]
    ) -> Forked:
        """Runs `dllama ARGUMENTS`; `streams` are file descriptors for its input, output and errors."""
        ours, theirs = socket.socketpair()
        request = {"arguments": arguments, "env": dict(env), "cwd": str(cwd or Path.cwd())}
        with theirs:
            line = json.dumps(request).encode() + b"\n"
            n_sent = socket.send_fds(self._requests, [line], [*streams, theirs.fileno()])
            self._requests.sendall(line[n_sent:])
        return Forked(ours)

    def close(self) -> None:
        self._requests.close()
        self._process.wait()


class Forked:
    """A command under way."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._received = b""
        self.pid = self._next_number()
        self._code: int | None = None

    def wait(self, timeout_s: float) -> int:
        """Its exit code, or minus the signal that ended it. Raises TimeoutError while it lives on."""
        if self._code is None:
            self._control.settimeout(timeout_s)
            self._code = self._next_number()
            self._control.close()
        return self._code

    def _next_number(self) -> int:
        """What was received when a TimeoutError comes is kept for the next call."""
        while b"\n" not in self._received:
            received = self._control.recv(64)
            assert received, "the fork server is gone"
            self._received += received
        line, _, self._received = self._received.partition(b"\n")
        return int(line)

    def send_signal(self, number: int) -> None:
        if self._code is None:
            os.kill(self.pid, number)


def _serve(requests: socket.socket) -> None:
    """Returns in each forked command, ready to run it; never in the server, which ends with its requests."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody asks how those who watch commands ended
    while True:
        line, descriptors, _, _ = socket.recv_fds(requests, _MAX_REQUEST_BYTES, 4)
        if not line:
            os._exit(0)
        while not line.endswith(b"\n"):  # one request at a time: the next comes after its answer
            line += requests.recv(_MAX_REQUEST_BYTES)
        if os.fork() == 0:
            requests.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            *streams, control = descriptors
            command = os.fork()
            if command == 0:
                os.close(control)
                _become(json.loads(line), streams)
                return
            _watch(command, streams, socket.socket(fileno=control))
        for descriptor in descriptors:
            os.close(descriptor)


def _become(request: dict[str, Any], streams: Sequence[int]) -> None:
    for number, descriptor in enumerate(streams):
        os.dup2(descriptor, number)
        os.close(descriptor)
    heed_interrupts()
    os.environ.clear()
    os.environ.update(request["env"])
    os.chdir(request["cwd"])
    sys.argv = ["dllama", *request["arguments"]]


def _watch(command: int, streams: Sequence[int], control: socket.socket) -> None:
    for descriptor in streams:
        os.close(descriptor)
    control.sendall(f"{command}\n".encode())
    has_ended = threading.Event()

    def kill_when_left_alone() -> None:
        control.recv(1)
        if not has_ended.is_set():
            os.kill(command, signal.SIGKILL)

    threading.Thread(target=kill_when_left_alone, daemon=True).start()
    _, status = os.waitpid(command, 0)
    has_ended.set()
    control.sendall(f"{os.waitstatus_to_exitcode(status)}\n".encode())
    os._exit(0)


if __name__ == "__main__":
    import dllama.cli.main  # noqa: F401 - here, so that no command need
    from dllama.cli.start import run

    _serve(socket.socket(fileno=os.dup(0)))
    run()
