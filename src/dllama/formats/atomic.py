"""Files that appear whole or not at all, and the question whether the disk has room for them.

Only a regular file is ever replaced. What else a name stands for (a device, a pipe, an open file below /dev/fd) is
written to as it is, and a symbolic link leads to the file that it names.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from dllama.errors import NotEnoughDiskError, UsageError

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
_MOST_LINKS = 40  # as many as Linux follows


@contextlib.contextmanager
def write_atomically(path: Path) -> Iterator[BinaryIO]:
    """A binary file to write; when the block ends it is on the disk under the name `path`.

    Until then it has a temporary name in the same directory, and a file that was at `path` before stays as it
    was; the new one takes over its owner and its permissions. If the block is left by any exception (Ctrl-C too)
    the temporary file is removed; those that killed writers of `path` left behind are removed at the start. A
    symbolic link is followed and stays. What is no regular file, or is one in a directory where none can be made,
    is written to as it is, and keeps what was written when the block fails.

    Raises UsageError when it cannot be written, NotEnoughDiskError when the disk is full.
    """
    names = {str(path)}
    try:
        place, is_direct = _followed(path)
        with _written_directly(path, place) if is_direct else _replaced(place, names) as file:
            yield file
    except OSError as error:
        if error.errno in _NO_ROOM:
            raise NotEnoughDiskError(f"cannot write {path}: the disk is full") from error
        if error.filename in names:
            raise UsageError(f"cannot write {path}: {error.strerror}") from error
        raise


def check_writable(path: Path) -> None:
    """Returns when write_atomically would probably succeed; makes and opens nothing. Raises UsageError otherwise."""
    place, _ = _followed(path)
    if path.is_dir():
        raise UsageError(f"cannot write {path}: it is a directory, not a file")
    if os.path.lexists(place):
        if not os.path.exists(place):  # a link still, after as many as are followed
            raise UsageError(f"cannot write {path}: {os.strerror(errno.ELOOP)}")
        if not os.access(place, os.W_OK):
            raise UsageError(f"cannot write {path}: {os.strerror(errno.EACCES)}")
    elif not os.access(place.parent, os.W_OK):
        raise UsageError(f"cannot write {path}: {place.parent} is no directory to write to")


def require_free_space(path: Path, n_bytes: int) -> None:
    """Returns when the disk of the file `path` has room for `n_bytes`, or when `path` is no file.

    Removes what killed writers of `path` left behind. Its directory need not exist yet. Raises
    NotEnoughDiskError that says how much is needed and how much there is.
    """
    place, is_direct = _followed(path)
    if is_direct:
        return
    _remove_leftovers(place)
    directory = place.parent
    while not directory.exists():
        directory = directory.parent
    free_bytes = shutil.disk_usage(directory).free
    if free_bytes < n_bytes:
        raise NotEnoughDiskError(
            f"{path} needs {_readable(n_bytes)} of free disk space and its disk has {_readable(free_bytes)}; "
            "free some, or write to another disk"
        )


def _followed(path: Path) -> tuple[Path, bool]:
    """What `path` stands for, links followed, and whether it has to be written to directly: it is there and no
    regular file, or someone has it open (/dev/stdout), or its directory takes no new file."""
    place = Path(os.path.realpath(path.parent)) / path.name
    for _ in range(_MOST_LINKS):
        if not place.is_symlink():
            break
        if place.is_relative_to("/proc"):
            return place, True
        place = place.parent / place.readlink()
        place = Path(os.path.realpath(place.parent)) / place.name
    else:
        return place, True  # opening it says what is wrong
    try:
        is_regular = stat.S_ISREG(place.stat().st_mode)
    except OSError:  # not there, or not to be reached: making the file says what is wrong
        return place, False
    return place, not is_regular or not os.access(place.parent, os.W_OK)


@contextlib.contextmanager
def _written_directly(path: Path, place: Path) -> Iterator[BinaryIO]:
    """A regular file loses what it held, unless someone else has it open: then what is written follows it."""
    with path.open("ab" if place.is_symlink() and path.is_file() else "wb") as file:
        yield file


@contextlib.contextmanager
def _replaced(place: Path, names: set[str]) -> Iterator[BinaryIO]:
    """A new file that is at `place` at the end. Adds to `names` those that errors may have for it."""
    _remove_leftovers(place)
    partial = place.with_name(f".{place.name}.{secrets.token_hex(4)}.partial")
    names.update(map(str, (partial, place, place.parent)))
    with _locked_new(partial) as file:
        try:
            yield file
            file.flush()
            _take_over_rights(file.fileno(), place)
            os.fsync(file.fileno())
            partial.replace(place)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
    _sync_directory(place.parent)


def _locked_new(partial: Path) -> BinaryIO:
    """A new file under a lock, which says that its writer lives."""
    while True:
        file = partial.open("xb")
        with contextlib.suppress(OSError):  # a disk without locks: then nobody takes it for a leftover either
            fcntl.flock(file, fcntl.LOCK_EX)
        if partial.exists():
            return file
        file.close()  # another writer took it for a leftover before it was locked


def _remove_leftovers(place: Path) -> None:
    """Removes temporary files whose writers were killed. Who lives holds a lock on its own."""
    name = re.compile(rf"\.{re.escape(place.name)}\.[0-9a-f]{{8}}\.partial")
    with contextlib.suppress(OSError):  # a directory that cannot be read has nothing to remove
        for partial in [entry for entry in place.parent.iterdir() if name.fullmatch(entry.name)]:
            with contextlib.suppress(OSError), partial.open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                partial.unlink()


def _take_over_rights(descriptor: int, place: Path) -> None:
    """Gives the open file the owner and the permissions of the one at `place`, as far as this user may."""
    try:
        before = place.stat()
    except FileNotFoundError:
        return
    with contextlib.suppress(OSError):  # the owner of a file is changed by root alone
        os.fchown(descriptor, before.st_uid, before.st_gid)
    with contextlib.suppress(OSError):  # a disk without permissions
        os.fchmod(descriptor, stat.S_IMODE(before.st_mode))


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
