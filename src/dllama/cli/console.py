"""What people see: notes, progress bars in a terminal and plain lines elsewhere."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

_PLAIN_INTERVAL_S = 5.0


def note(text: str) -> None:
    """A line about what the program does, on standard error: standard output is for results."""
    print(text, file=sys.stderr, flush=True)


Advance = Callable[[int, int], None]
"""advance(done, total), as often as one likes."""


@contextlib.contextmanager
def progress_count(label: str, unit: str, scale: float = 1.0) -> Iterator[Advance]:
    """A bar with rate and time left; where standard error is no terminal, a line every few seconds and at the end.

    Numbers are shown divided by `scale`, in `unit`.
    """
    if not sys.stderr.isatty():
        yield _plain_progress(label, unit, scale)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        _CountColumn(unit, scale),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(label, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


class _CountColumn(ProgressColumn):
    """`120 of 800 MB, 95 MB/s`."""

    def __init__(self, unit: str, scale: float) -> None:
        super().__init__()
        self._unit, self._scale = unit, scale

    def render(self, task: Task) -> Text:
        total = (task.total or 0) / self._scale
        speed = (task.speed or 0) / self._scale
        return Text(
            f"{task.completed / self._scale:.0f} of {total:.0f} {self._unit}, {speed:.0f} {self._unit}/s"
        )


def _plain_progress(label: str, unit: str, scale: float) -> Advance:
    start = last = time.monotonic()

    def advance(done: int, total: int) -> None:
        nonlocal last
        now = time.monotonic()
        if done < total and now - last < _PLAIN_INTERVAL_S:
            return
        last = now
        rate = done / max(now - start, 1e-9)
        left_s = (total - done) / rate if rate else 0.0
        note(
            f"{label}: {done / scale:.0f} of {total / scale:.0f} {unit}, "
            f"{rate / scale:.0f} {unit}/s, {left_s:.0f} s left"
        )

    return advance
