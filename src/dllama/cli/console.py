"""What people see: notes, progress bars in a terminal and plain lines elsewhere."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.measure import Measurement
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.table import Column, Table
from rich.text import Text

_PLAIN_INTERVAL_S = 5.0

_MOST_COLUMNS = 10_000

_CONTROLS = {code: chr(0xFFFD) for code in (*range(0x20), *range(0x7F, 0xA0)) if chr(code) not in "\n\t"}


def note(text: str) -> None:
    """A line about what the program does, on standard error: standard output is for results."""
    print(harmless(text), file=sys.stderr, flush=True)


def show(text: str) -> None:
    """Prints text of a model as it comes: into a terminal without what would control it, elsewhere as it is."""
    sys.stdout.write(harmless(text) if sys.stdout.isatty() else text)
    sys.stdout.flush()


def show_thought(text: str) -> bool:
    """Prints, dimmed, what a model thinks before it answers; whether it did: only into a terminal, since elsewhere the
    answer alone is wanted."""
    is_shown = sys.stdout.isatty()
    if is_shown:
        sys.stdout.write(f"\x1b[2m{harmless(text)}\x1b[22m")
        sys.stdout.flush()
    return is_shown


def harmless(text: str) -> str:
    """The text with U+FFFD for each character with which it could take a terminal over.

    Its lines stay lines, and no character of any language is touched, since people read it as text. plain_line, for
    what is quoted within a sentence, leaves nothing that cannot be seen, and has an end.
    """
    return text.translate(_CONTROLS)


def print_table(table: Table) -> None:
    """Prints a table with all of its text: in a narrow terminal its rows go on in the next line, in a pipe they are as
    long as they are."""
    console = Console(markup=False)
    wanted = Measurement.get(console, console.options.update(max_width=_MOST_COLUMNS), table).maximum
    console.width = max(console.width, wanted)
    console.print(table)


Advance = Callable[[int, int], None]
"""advance(done, total), as often as one likes."""


@contextlib.contextmanager
def progress_count(
    label: str, unit: str, scale: float = 1.0, on_line: Callable[[str], None] = note
) -> Iterator[Advance]:
    """A bar with rate and time left; where standard error is no terminal, a line every few seconds and at the end, for
    `on_line`.

    Numbers are shown divided by `scale`, in `unit`.
    """
    console = Console(stderr=True)
    if not _can_draw(console):
        yield _plain_progress(label, unit, scale, on_line)
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        _CountColumn(unit, scale),
        TimeRemainingColumn(),
    )
    # Standard output may be a pipe, and what is printed belongs there.
    with Progress(*columns, console=console, transient=True, redirect_stdout=False) as progress:
        task = progress.add_task(label, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


class PromptBar:
    """How far a prompt is computed, while one waits for the answer. Hide it before other lines are printed.

    Where standard error is no terminal: a line every few seconds, and none where it does not take so long.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """The prompt begins now."""
        self._clock = clock
        self._console = Console(stderr=True)
        self._shown: Progress | None = None
        self._start_s = self._last_s = clock()

    def show(self, done: int, total: int) -> None:
        """`done` of `total` tokens are computed; when all are, there is nothing to show."""
        self.hide()
        if done >= total:
            return
        now = self._clock()
        rate = done / max(now - self._start_s, 1e-9)
        left = f", {(total - done) / rate:.0f} s left" if done else ""
        state = f"{done} of {total} tokens, {rate:.0f} tokens/s{left}"
        if _can_draw(self._console):
            columns = (TextColumn("prompt"), BarColumn(), TextColumn("{task.description}"))
            self._shown = Progress(
                *columns, console=self._console, transient=True, auto_refresh=False, redirect_stdout=False
            )
            self._shown.add_task(state, completed=done, total=total)
            self._shown.start()
        elif now - self._last_s >= _PLAIN_INTERVAL_S:
            self._last_s = now
            note(f"prompt: {state}")

    def hide(self) -> None:
        if self._shown is not None:
            self._shown.stop()
            self._shown = None


def _can_draw(console: Console) -> bool:
    return console.is_terminal and not console.is_dumb_terminal


class _CountColumn(ProgressColumn):
    """`120 of 800 MB, 95 MB/s`."""

    def __init__(self, unit: str, scale: float) -> None:
        super().__init__(Column(no_wrap=True))
        self._unit, self._scale = unit, scale

    def render(self, task: Task) -> Text:
        total = (task.total or 0) / self._scale
        speed = (task.speed or 0) / self._scale
        return Text(
            f"{task.completed / self._scale:.0f} of {total:.0f} {self._unit}, {speed:.0f} {self._unit}/s"
        )


def _plain_progress(label: str, unit: str, scale: float, on_line: Callable[[str], None]) -> Advance:
    start = last = time.monotonic()

    def advance(done: int, total: int) -> None:
        nonlocal last
        now = time.monotonic()
        if done < total and now - last < _PLAIN_INTERVAL_S:
            return
        last = now
        rate = done / max(now - start, 1e-9)
        left_s = (total - done) / rate if rate else 0.0
        on_line(
            f"{label}: {done / scale:.0f} of {total / scale:.0f} {unit}, "
            f"{rate / scale:.0f} {unit}/s, {left_s:.0f} s left"
        )

    return advance
