"""A file mapped read-only, whose pages can be let go."""

from __future__ import annotations

import mmap
import os
import weakref
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dllama.errors import ModelFileError
from dllama.formats.guarded_map import guarded_map
from dllama.formats.plain_files import open_plain_file
from dllama.formats.strangers import HEAD_BYTES, stranger

_CHANGED = (
    "was changed while it was in use; start again when whoever writes it is done (a new file by the same name does no "
    "harm to those who use the old one)"
)


class MappedFile:
    """The bytes of a file as `bytes`: uint8 [n], read-only, read from the disk when touched.

    Views of `bytes` stay valid after `let_go` (the pages are read again) and after `close` (the map lives
    until its last view is gone).
    """

    def __init__(self, path: Path, ours: bytes = b"") -> None:
        """Raises ModelFileError when the file is missing, unreadable, empty, no file, or known as something else; what
        begins with `ours` is what is wanted."""
        self.path = path
        try:
            with open_plain_file(path, ModelFileError) as file:
                self._map = guarded_map(file.fileno(), 0, mmap.ACCESS_READ, f"{path}: {_CHANGED}")
                self._written = _written(file.fileno())
                self._descriptor = os.dup(file.fileno())
        except ValueError as error:  # mmap's word for an empty file
            raise ModelFileError(f"{path}: is empty; download or convert it again") from error
        except OSError as error:
            raise ModelFileError(f"{path}: cannot be read: {error.strerror}") from error
        self._close = weakref.finalize(self, os.close, self._descriptor)
        self.bytes: NDArray[np.uint8] = np.frombuffer(self._map, dtype=np.uint8)
        head = self._map[:HEAD_BYTES]
        what = stranger(head)
        if what is not None and not (ours and head.startswith(ours)):
            raise ModelFileError(f"{path}: {what}")

    def check(self) -> None:
        """Raises ModelFileError when the file has been written to since it was opened. It may be gone, and there may
        be another one by its name: the map has what was opened."""
        # Asked of what was opened, not by its name: a token waits for it, and names take three times as long.
        try:
            written = _written(self._descriptor)
        except OSError:  # nothing says that it was changed
            return
        if written != self._written:
            raise ModelFileError(f"{self.path}: {_CHANGED}")

    def let_go(self) -> None:
        """Gives the pages that this process has touched back to the system. They stay in the page cache."""
        if hasattr(mmap, "MADV_DONTNEED"):
            self._map.madvise(mmap.MADV_DONTNEED)

    def close(self) -> None:
        """Drops `bytes`. Reading through this object afterwards is a mistake of the caller."""
        self.bytes = np.empty(0, dtype=np.uint8)
        self._descriptor = -1
        self._close()


def _written(descriptor: int) -> tuple[int, int]:
    """How many bytes the open file has, and when they were written."""
    found = os.fstat(descriptor)
    return found.st_size, found.st_mtime_ns
