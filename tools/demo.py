"""`make demo`: a root and two workers, three programs on this computer, tell a story with the demo model."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PROMPT = "Once upon a time"
DLLAMA = (sys.executable, "-m", "dllama")


def main() -> int:
    with (
        tempfile.TemporaryDirectory() as folder,
        tempfile.TemporaryFile("w+", encoding="utf-8") as notes,
        worker() as first,
        worker() as second,
    ):
        report = Path(folder) / "report.json"
        command = [
            *DLLAMA, "inference", "--prompt", PROMPT, "--seed", "7", "--temperature", "0.7", "--nthreads", "1",
            "--stream", "--report", str(report), "--workers", first, second,
        ]  # fmt: skip
        print(f"A root and the workers {first} and {second} begin:\n\n{PROMPT}", end="", flush=True)
        code = subprocess.run(command, stderr=notes, check=False).returncode
        if code:
            notes.seek(0)
            sys.stderr.write(notes.read())
            return code
        print(f"\n{in_words(json.loads(report.read_text()))}")
    return 0


def in_words(report: dict[str, Any]) -> str:
    """What --report measured, for people who see it for the first time."""
    load, decode = report["load"], report["decode"]
    n_workers = len(report["nodes"]) - 1
    return (
        f"They told it together: each of the {n_workers + 1} computed its part of every layer of the model.\n"
        f"The workers had no model file. The root sent each of them its part, "
        f"{load['sent_bytes'] / n_workers / 1e6:.1f} MB, and all were ready after {load['seconds']:.1f} s.\n"
        f"The story has {report['n_generated_tokens']} tokens, which are words and pieces of words, "
        f"and took {decode['seconds']:.1f} s: {decode['tok_per_s']:.0f} tokens a second.\n"
        f"For each one the root sent {decode['sent_bytes_per_tok'] / 1e3:.0f} kB to the workers and received "
        f"{decode['recv_bytes_per_tok'] / 1e3:.0f} kB from them."
    )


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
    with contextlib.suppress(KeyboardInterrupt):
        sys.exit(main())
    sys.exit(130)
