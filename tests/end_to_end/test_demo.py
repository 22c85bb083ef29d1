"""What `make demo` shows: a story of whole sentences, then in words what it took."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from support.processes import TIMEOUT_S, environment

DEMO = Path(__file__).parents[2] / "tools" / "demo.py"


def test_a_story_and_a_summary() -> None:
    done = subprocess.run(
        [sys.executable, DEMO],
        capture_output=True,
        text=True,
        env=environment(),
        timeout=TIMEOUT_S,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    _, story, summary = done.stdout.split("\n\n")
    assert story.startswith("Once upon a time")
    assert re.search(r'[.!?]"?$', story)
    assert story.count(". ") > 5
    for pattern in (
        r"each of the 3",
        r"its part, \d+\.\d MB",
        r"has \d+ tokens",
        r"\d+ tokens a second",
        r"sent \d+ kB",
    ):
        assert re.search(pattern, summary), pattern
