"""Conversations as files: those that people save and load, and those that are kept for --continue.

A file is the messages as JSON: `[{"role": "user", "content": "Hello"}, ...]`.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from dllama.errors import UsageError
from dllama.formats.atomic import write_atomically
from dllama.formats.plain_files import open_plain_file
from dllama.tokenizer import Message

_PRIVATE_FILE, _PRIVATE_DIRECTORY = 0o600, 0o700
_MOST_KEPT = 20
_MOST_BYTES = 100_000_000
"""Far more than any context holds."""


def state_directory(environ: Mapping[str, str]) -> Path:
    """Where a program keeps what should survive it (XDG base directory specification). Raises UsageError for a user
    without a home."""
    base = environ.get("XDG_STATE_HOME", "")
    if os.path.isabs(base):  # others are to be ignored, says the specification
        return Path(base) / "dllama"
    try:
        return Path.home() / ".local" / "state" / "dllama"
    except RuntimeError as error:
        raise UsageError("there is no home directory to keep anything in") from error


def write_messages(path: Path, messages: Sequence[Message]) -> None:
    """Raises UsageError or NotEnoughDiskError when that fails; a file that was there is then as it was."""
    with write_atomically(path) as file:
        file.write(_encoded(messages))


def read_messages(path: Path) -> list[Message]:
    """Raises UsageError for a file that is no conversation."""
    with open_plain_file(path, UsageError) as file:
        content = file.read(_MOST_BYTES + 1)
    if len(content) > _MOST_BYTES:
        raise UsageError(f"{path} is too large to be a conversation")
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path} is no conversation: it is not sound JSON") from error
    if not isinstance(value, list) or not all(map(_is_message, value)):
        raise UsageError(
            f"{path} is no conversation: it has to be a list of messages with a role and a content"
        )
    return value


class KeptChat:
    """The file of one conversation in a directory that its owner alone can read. Nothing is there before `keep`."""

    def __init__(self, directory: Path, path: Path | None = None) -> None:
        """A new one, or that of an earlier chat."""
        name = f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}.json"
        self._path = path or directory / name

    @classmethod
    def latest(cls, directory: Path) -> tuple[KeptChat, list[Message]] | None:
        """The one that was kept last, with its messages; None where there is none. Raises UsageError for a file
        that is damaged."""
        paths = _kept(directory)
        return (cls(directory, paths[-1]), read_messages(paths[-1])) if paths else None

    def keep(self, messages: Sequence[Message]) -> None:
        """Replaces what was kept of this conversation, and forgets the oldest of many others.

        Raises UsageError or NotEnoughDiskError when that fails."""
        try:
            _make_private(self._path.parent)
        except OSError as error:
            raise UsageError(f"cannot write {self._path}: {error.strerror}") from error
        with write_atomically(self._path) as file:
            os.fchmod(file.fileno(), _PRIVATE_FILE)
            file.write(_encoded(messages))
        for path in _kept(self._path.parent)[:-_MOST_KEPT]:
            with contextlib.suppress(OSError):  # another chat forgot it at the same time
                path.unlink()

    def forget(self) -> None:
        with contextlib.suppress(OSError):
            self._path.unlink()


class InputHistory:
    """Lines of earlier chats, the oldest first, in a file that its owner alone can read: each a JSON string, as a
    message may have several lines. A home that cannot be written to costs the history and nothing else."""

    _MOST = 1000

    def __init__(self, path: Path) -> None:
        self._path = path

    def lines(self) -> list[str]:
        try:
            stored = self._path.read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            return []
        if len(stored) > 2 * self._MOST:
            stored = stored[-self._MOST :]
            with contextlib.suppress(OSError, UsageError), write_atomically(self._path) as file:
                file.write("".join(f"{line}\n" for line in stored).encode())
        return [_history_line(line) for line in stored[-self._MOST :]]

    def add(self, line: str) -> None:
        with contextlib.suppress(OSError):
            _make_private(self._path.parent)
            descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, _PRIVATE_FILE)
            with open(descriptor, "ab") as file:
                file.write(json.dumps(line).encode() + b"\n")


def _make_private(directory: Path) -> None:
    """Makes it and those above it that are missing, for their owner alone, as the XDG specification wants it."""
    if not directory.is_dir():
        _make_private(directory.parent)
        directory.mkdir(mode=_PRIVATE_DIRECTORY, exist_ok=True)


def _encoded(messages: Sequence[Message]) -> bytes:
    return json.dumps(messages, ensure_ascii=False, indent=1).encode(errors="replace")


def _is_message(value: object) -> bool:
    return (
        isinstance(value, dict)
        and isinstance(value.get("role"), str)
        and isinstance(value.get("content"), str)
    )


def _kept(directory: Path) -> list[Path]:
    """Conversations, the one that was kept last at the end."""
    dated = []
    with contextlib.suppress(OSError):
        for path in directory.glob("*.json"):
            with contextlib.suppress(OSError):
                dated.append((path.stat().st_mtime_ns, path))
    return [path for _, path in sorted(dated)]


def _history_line(stored: str) -> str:
    """Lines without quotes are those of a line editor that was used earlier."""
    if stored.startswith('"'):
        with contextlib.suppress(ValueError):
            return str(json.loads(stored))
    return stored
