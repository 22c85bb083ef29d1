"""Text that a command is given: on its command line, in a file, over standard input."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from dllama.errors import UsageError

STANDARD_INPUT = Path("-")

_LARGEST_BYTES = 1 << 28
"""Far more than a model can take in: 64 million tokens or so. A device never ends."""


def text_argument(text: str) -> str:
    """An argument of a command line, if it is text: other bytes come as halves of surrogate pairs."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        shown = text.encode(errors="backslashreplace").decode()
        raise argparse.ArgumentTypeError(f"{shown} is not UTF-8 text") from error
    return text


def read_text(path: Path, *, drop_mark: bool = True) -> str:
    """A file of UTF-8 text, or what comes over standard input for `-`.

    With `drop_mark` a byte order mark does not belong to it. Raises UsageError where it is no such text, or does not
    end.
    """
    name = "standard input" if path == STANDARD_INPUT else str(path)
    with sys.stdin.buffer if path == STANDARD_INPUT else path.open("rb") as file:
        content = file.read(_LARGEST_BYTES + 1)
    if len(content) > _LARGEST_BYTES:
        raise UsageError(f"{name} is larger than {_LARGEST_BYTES >> 20} MiB, which no text for a model is")
    try:
        return content.decode("utf-8-sig" if drop_mark else "utf-8")
    except UnicodeDecodeError as error:
        raise UsageError(f"{name} is not UTF-8 text: {error.reason} at byte {error.start}") from error
