"""Programs that may compute for ever, in processes that may be killed, under limits that the operating system keeps.

The limited program is one file that calls `limit_process` and then `limit_time`; it talks over its standard streams.
"""

from __future__ import annotations

import contextlib
import resource
import signal
import subprocess
import sys
from pathlib import Path

from dllama.errors import SystemLimitError


def start_limited(program: Path, purpose: str) -> subprocess.Popen[bytes]:
    """A process that runs the file `program`, with pipes to its standard input and output.

    Raises SystemLimitError, which names the `purpose`, when the system has no process to give.
    """
    try:
        return subprocess.Popen(
            [sys.executable, "-P", program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
    except OSError as error:
        raise SystemLimitError(f"no process can be started for {purpose}: {error}") from error


def passed_its_time(exit_code: int) -> bool:
    """Whether a process with this exit code was ended by `limit_time`."""
    return exit_code == -signal.SIGPROF


def killed_from_outside(exit_code: int) -> bool:
    """Whether somebody else ended a process with this exit code: a person, or the system for want of memory."""
    return exit_code in (-signal.SIGKILL, -signal.SIGTERM, -signal.SIGHUP)


def limit_process(memory_bytes: int) -> None:
    """Within the program: limits its address space, and leaves Ctrl-C to whoever started it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(ValueError, OSError):  # a lower limit is there already, or the system knows none
        resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))


def limit_time(seconds: float) -> None:
    """Within the program: ends it after so much more time of a processor; 0 takes the limit away."""
    signal.setitimer(signal.ITIMER_PROF, seconds)
