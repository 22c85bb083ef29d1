"""Files that others wrote, read with care: plain files only, of a bounded size, JSON of a bounded depth.

A pipe by the name of config.json would hold the program up for ever, and a JSON text of a thousand brackets or of half
a surrogate pair fails far from where it was read. Every settings file is read here.
"""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any, BinaryIO

from dllama.errors import DllamaError
from dllama.formats.strangers import HEAD_BYTES, stranger

Fault = type[DllamaError]
"""The error that a file's faults are."""

LARGEST_SETTINGS_BYTES = 1 << 26
"""The largest known, an index of 90 000 tensors, has 9 MB."""

_DEEPEST = 64  # ten are many
_KINDS = {
    stat.S_IFDIR: "a directory",
    stat.S_IFIFO: "a pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
}


def open_plain_file(path: Path, fault: Fault) -> BinaryIO:
    """The file, open for reading. Raises `fault` naming it when it is missing, unreadable or no plain file."""
    try:  # without waiting, as the other end of a pipe may never come
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise fault(f"{path}: there is no such file") from error
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise fault(f"{path}: cannot be read: {getattr(error, 'strerror', error)}") from error
    kind = stat.S_IFMT(os.fstat(descriptor).st_mode)
    if kind != stat.S_IFREG:
        os.close(descriptor)
        raise fault(f"{path}: is {_KINDS.get(kind, 'something else')}, not a file")
    return open(descriptor, "rb")


def read_plain_file(path: Path, fault: Fault, largest_bytes: int = LARGEST_SETTINGS_BYTES) -> bytes:
    """All of it. Raises `fault` as open_plain_file does, also when it is larger, or known as something else."""
    with open_plain_file(path, fault) as file:
        try:
            content = file.read(HEAD_BYTES)
            what = stranger(content)
            if what is not None:
                raise fault(f"{path}: {what}")
            content += file.read(largest_bytes + 1 - len(content))
        except OSError as error:
            raise fault(f"{path}: cannot be read: {error.strerror}") from error
    if len(content) > largest_bytes:
        raise fault(
            f"{path}: is larger than {largest_bytes >> 20} MiB, which no such file is; download it again"
        )
    return content


def read_text_file(path: Path, fault: Fault) -> str:
    """UTF-8 text. Raises `fault` as read_plain_file does, also when it is none."""
    try:
        return read_plain_file(path, fault).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise fault(
            f"{path}: is not UTF-8 ({error.reason} at byte {error.start}); download it again"
        ) from error


def read_json_object(path: Path, fault: Fault) -> dict[str, Any]:
    """The object. Raises `fault` as read_plain_file does, also when it is no JSON, no object, or too deep."""
    content = read_plain_file(path, fault)
    try:
        values = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise fault(f"{path}: is not JSON ({error}); download it again") from error
    if not isinstance(values, dict):
        raise fault(f"{path}: is not a JSON object; download it again")
    what = _unusable(values)
    if what is not None:
        raise fault(f"{path}: {what}; download it again")
    return values


def _unusable(values: Any) -> str | None:
    """What makes `values` more than anyone can have meant, or None."""
    level = [values]
    for _ in range(_DEEPEST):
        if not level:
            return None
        texts = [value for value in level if isinstance(value, str)]
        texts += [key for value in level if isinstance(value, dict) for key in value]
        if not all(map(_is_text, texts)):
            return "has half a surrogate pair in it, which is no character"
        level = [item for value in level for item in _items(value)]
    return f"is nested more than {_DEEPEST} deep"


def _items(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else []


def _is_text(text: str) -> bool:
    return text.isascii() or not any("\ud800" <= character <= "\udfff" for character in text)
