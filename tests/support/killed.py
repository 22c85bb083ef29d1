"""A process that the system kills as soon as it has begun, as it does where memory is short."""

from __future__ import annotations

import subprocess
from pathlib import Path

from dllama.host.limited_process import start_limited


def start_and_kill(program: Path, purpose: str) -> subprocess.Popen[bytes]:
    """In place of `start_limited`."""
    process = start_limited(program, purpose)
    process.kill()
    return process
