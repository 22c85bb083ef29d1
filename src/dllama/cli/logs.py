"""The log on standard error: which lines people get to see, how they look, and how many of a kind there may be."""

from __future__ import annotations

import dataclasses
import logging
import threading
import time
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import Any

from dllama.cli.console import harmless
from dllama.plain_text import plain_line

LEVELS = ("debug", "info", "warning", "error")

MOST_A_MINUTE = 600
"""Lines of one kind. A busy server has no more requests; a flood of them, or of idle connections, fills no disk."""

_TRACEBACK_LINES = 30
"""What a traceback counts for."""

_LONGEST_TRACEBACK = 20_000

_LONGEST_EXAMPLE = 200

_MINUTE_S = 60.0

_DAY_AND_TIME = "%Y-%m-%d %H:%M:%S"
_SERVER_LINE = "%(asctime)s %(levelname)s %(message)s"
_DEBUG_LINE = "%(asctime)s.%(msecs)03d %(levelname)s %(name)s: %(message)s"
_COMMAND_LINE = "%(name)s: %(message)s"

_program = logging.getLogger("dllama")


@contextmanager
def log_lines(level: str, *, is_server: bool) -> Iterator[None]:
    """Within, lines of this program from `level` on go to standard error, those of libraries only if they are warnings
    or all are wanted ("debug"). Lines of servers, which run for long, have a time. Installed once in a process."""
    number = logging.getLevelNamesMapping()[level.upper()]
    is_debug = number <= logging.DEBUG
    handler = logging.StreamHandler()
    handler.setFormatter(_Lines(_DEBUG_LINE if is_debug else _SERVER_LINE if is_server else _COMMAND_LINE))
    limit = KindLimit(MOST_A_MINUTE, lambda record: _write(handler, record))
    handler.addFilter(limit)
    logging.basicConfig(handlers=[handler], level=number if is_debug else max(number, logging.WARNING))
    _program.setLevel(number)
    try:
        yield
    finally:
        limit.tell_all()


def announce(text: str) -> None:
    """A line of the log that is there whatever the level: where a server is to be found."""
    _program.handle(_program.makeRecord(_program.name, logging.INFO, __file__, 0, text, (), None))


class KindLimit(logging.Filter):
    """Lets so many lines of one kind pass a minute, and then says how many it held back.

    Lines are of one kind when the same statement writes them: whoever causes them can change the words, not that.
    """

    def __init__(
        self,
        most: int,
        write: Callable[[logging.LogRecord], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`write` gets the records that say what is held back; they do not pass this filter."""
        super().__init__()
        self._most, self._write, self._clock = most, write, clock
        self._lock = threading.Lock()
        self._minutes: dict[Hashable, _Minute] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        now_s = self._clock()
        with self._lock:
            news = self._forget(now_s - _MINUTE_S)
            kind = (record.name, record.levelno, record.pathname, record.lineno)
            minute = self._minutes.setdefault(kind, _Minute(now_s))
            minute.n_lines += _TRACEBACK_LINES if record.exc_info else 1
            passes = minute.n_lines <= self._most
            if not passes and minute.example is None:
                minute.example = _plain_copy(record)
                left_s = minute.start_s + _MINUTE_S - now_s
                news.append(_about(minute.example, f"more lines like this are held back for {left_s:.0f} s"))
            minute.n_held_back += not passes
        self._tell(news)
        return passes

    def tell_all(self) -> None:
        """Says what is held back now."""
        with self._lock:
            news = self._forget(self._clock())
        self._tell(news)

    def _forget(self, until_s: float) -> list[logging.LogRecord]:
        """Forgets the minutes that began by then; returns what there is to say of them."""
        news = []
        for kind, minute in list(self._minutes.items()):
            if minute.start_s <= until_s:
                del self._minutes[kind]
                if minute.example is not None:
                    news.append(
                        _about(minute.example, f"{minute.n_held_back} lines like this were held back")
                    )
        return news

    def _tell(self, news: list[logging.LogRecord]) -> None:
        for record in news:
            self._write(record)


@dataclasses.dataclass
class _Minute:
    """Lines of one kind. `example` is the first that was held back."""

    start_s: float
    n_lines: int = 0
    n_held_back: int = 0
    example: logging.LogRecord | None = None


def _plain_copy(record: logging.LogRecord) -> logging.LogRecord:
    """The record without what it refers to: its message alone."""
    return logging.makeLogRecord(
        {"name": record.name, "levelno": record.levelno, "levelname": record.levelname}
        | {"msg": plain_line(record.getMessage(), _LONGEST_EXAMPLE)}
    )


def _about(example: logging.LogRecord, what: str) -> logging.LogRecord:
    return logging.makeLogRecord(
        {"name": example.name, "levelno": example.levelno, "levelname": example.levelname}
        | {"msg": f"{what}: {example.msg}"}
    )


class _Lines(logging.Formatter):
    """Each message is one line of text, whoever's words are in it; tracebacks follow it, if they are not endless."""

    def __init__(self, line: str) -> None:
        super().__init__(line, _DAY_AND_TIME)

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        record.message = plain_line(" ".join(record.message.splitlines()))
        return super().formatMessage(record)

    def formatException(self, ei: Any) -> str:  # noqa: N802
        return harmless(super().formatException(ei))[-_LONGEST_TRACEBACK:]


def _write(handler: logging.Handler, record: logging.LogRecord) -> None:
    handler.acquire()
    try:
        handler.emit(record)
    finally:
        handler.release()
