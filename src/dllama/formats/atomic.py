"""Files that appear whole or not at all, and the question whether the disk has room for them."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from dllama.errors import NotEnoughDiskError, UsageError

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)


@contextlib.contextmanager
def write_atomically(path: Path) -> Iterator[BinaryIO]:
    """A binary file to write; when the block ends it is on the disk under the name `path`.

    Until then it has a temporary name in the same directory, and a file that was at `path` before stays as it
    was. If the block is left by any exception (Ctrl-C too) the temporary file is removed. Raises UsageError
    when the directory cannot be written to, NotEnoughDiskError when the disk is full.
    """
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    try:
        file = partial.open("xb")
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}") from error
    try:
        with file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        if error.errno in _NO_ROOM:
            raise NotEnoughDiskError(f"cannot write {path}: the disk is full") from error
        if error.filename == str(partial):
            raise UsageError(f"cannot write {path}: {error.strerror}") from error
        raise
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    _sync_directory(path.parent)


def require_free_space(directory: Path, n_bytes: int) -> None:
    """Returns when the disk of `directory` (which need not exist yet) has `n_bytes` free.

    Raises NotEnoughDiskError that says how much is needed and how much there is.
    """
    place = directory.absolute()
    while not place.exists():
        place = place.parent
    free_bytes = shutil.disk_usage(place).free
    if free_bytes < n_bytes:
        raise NotEnoughDiskError(
            f"{directory} needs {_readable(n_bytes)} of free disk space and has {_readable(free_bytes)}; "
            "free some, or write to another disk"
        )


def _readable(n_bytes: int) -> str:
    if n_bytes < 10**6:
        return f"{n_bytes} bytes"
    if n_bytes < 10**9:
        return f"{n_bytes / 10**6:.1f} MB"
    return f"{n_bytes / 10**9:.1f} GB"


def _sync_directory(directory: Path) -> None:
    """Makes the renaming itself survive a power cut."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
