"""What a script starts in the background inherits SIGINT as ignored. Tests that press Ctrl-C are to work there too."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from support import processes
from support.fork_server import ForkServer, heed_interrupts
from support.processes import TIMEOUT_S, WorkerProcess


@pytest.fixture
def in_the_background() -> Iterator[None]:
    """This process as `pytest &` in a script starts it."""
    previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
    yield
    signal.signal(signal.SIGINT, previous)


@pytest.mark.usefixtures("in_the_background")
def test_commands_of_tests_heed_ctrl_c(monkeypatch: pytest.MonkeyPatch) -> None:
    server = ForkServer()
    monkeypatch.setattr(processes, "_server", lambda: server)
    with WorkerProcess() as worker:
        assert worker.address
        worker.interrupt()
        assert worker.finish().code == 130
    server.close()


@pytest.mark.usefixtures("in_the_background")
def test_programs_of_tests_heed_ctrl_c() -> None:
    asks = "import signal; print(signal.getsignal(signal.SIGINT) is signal.default_int_handler)"
    command = [sys.executable, "-c", asks]
    done = subprocess.run(
        command, preexec_fn=heed_interrupts, capture_output=True, text=True, timeout=TIMEOUT_S, check=True
    )
    assert done.stdout.strip() == "True"


def test_who_waited_in_vain_can_still_end_a_command() -> None:
    with WorkerProcess() as worker:
        with pytest.raises(TimeoutError):
            worker.finish(0.01)
        worker.kill()
