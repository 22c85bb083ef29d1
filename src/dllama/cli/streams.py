"""Standard input, output and errors that behave, whatever the program was started with.

Results go to standard output, and what cannot be written there ends the command with an error that says so. Standard
errors are for notes: that nobody reads them ends nothing.
"""

from __future__ import annotations

import io
import os
import sys
from typing import Any, TextIO

OUTPUT_NAME = "standard output"
"""The file name in errors of writing there."""


def open_standard_streams() -> None:
    """Replaces sys.stdin, sys.stdout and sys.stderr.

    Descriptors 0, 1 and 2 are open afterwards, so that no file or socket can take their numbers: input that was closed
    is empty, closed output cannot be written to, closed errors vanish. What the encoding of the terminal lacks is
    printed as `?`, and what is no text in it is read as U+FFFD.
    """
    for descriptor, flags in ((0, os.O_RDONLY), (1, os.O_RDONLY), (2, os.O_WRONLY)):
        if not _is_open(descriptor):
            os.open(os.devnull, flags)  # takes the lowest number that is free
    if sys.stdin is None:
        sys.stdin = open(0, encoding="utf-8", errors="replace", closefd=False)  # noqa: SIM115 - open to the end
    elif isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="replace")
    sys.stdout = _text(_Output(1, "wb", closefd=False), sys.stdout, "replace")
    sys.stderr = _text(_Notes(2, "wb", closefd=False), sys.stderr, "backslashreplace")


def discard_output() -> None:
    """Lets standard output, which cannot be written to, swallow what is still buffered."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.stdout.fileno())
    os.close(null)


class _Output(io.FileIO):
    """Names itself in errors."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError as error:
            raise OSError(error.errno, error.strerror, OUTPUT_NAME) from error


class _Notes(io.FileIO):
    """Loses what it cannot write."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError:
            return memoryview(data).nbytes


def _text(file: io.FileIO, replaced: TextIO | None, errors: str) -> TextIO:
    encoding = replaced.encoding if replaced else "utf-8"
    return io.TextIOWrapper(
        io.BufferedWriter(file),
        encoding=encoding,
        errors=errors,
        line_buffering=isinstance(file, _Notes) or file.isatty(),
    )


def _is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True
