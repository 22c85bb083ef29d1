"""`make demo`: two workers and a root, three processes on this computer, tell a story with the demo model."""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
from collections.abc import Iterator

PROMPT = "Once upon a time"
DLLAMA = (sys.executable, "-m", "dllama")


def main() -> int:
    with worker() as first, worker() as second:
        command = [
            *DLLAMA, "inference", "--prompt", PROMPT, "--steps", "128", "--seed", "7", "--temperature", "0.7",
            "--nthreads", "1", "--workers", first, second,
        ]  # fmt: skip
        return subprocess.run(command, check=False).returncode


@contextlib.contextmanager
def worker() -> Iterator[str]:
    """The address of a worker on a free port; it is stopped at the end."""
    command = [*DLLAMA, "worker", "--host", "127.0.0.1", "--port", "0", "--nthreads", "1"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            line = process.stderr.readline()
            listening = re.search(r"listens on (\S+)", line)
            if listening is None:
                raise SystemExit(f"the worker did not start: {line}{process.stderr.read()}")
            yield listening[1]
        finally:
            process.terminate()


if __name__ == "__main__":
    sys.exit(main())
