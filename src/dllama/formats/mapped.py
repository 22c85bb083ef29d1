"""A file mapped read-only, whose pages can be let go."""

from __future__ import annotations

import mmap
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dllama.errors import ModelFileError
from dllama.formats.plain_files import open_plain_file
from dllama.formats.strangers import HEAD_BYTES, stranger


class MappedFile:
    """The bytes of a file as `bytes`: uint8 [n], read-only, read from the disk when touched.

    Views of `bytes` stay valid after `let_go` (the pages are read again) and after `close` (the map lives
    until its last view is gone).
    """

    def __init__(self, path: Path) -> None:
        """Raises ModelFileError when the file is missing, unreadable, empty, no file, or known as something else."""
        self.path = path
        try:
            with open_plain_file(path, ModelFileError) as file:
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except ValueError as error:  # mmap's word for an empty file
            raise ModelFileError(f"{path}: is empty; download or convert it again") from error
        except OSError as error:
            raise ModelFileError(f"{path}: cannot be read: {error.strerror}") from error
        what = stranger(self._map[:HEAD_BYTES])
        if what is not None:
            raise ModelFileError(f"{path}: {what}")
        self.bytes: NDArray[np.uint8] = np.frombuffer(self._map, dtype=np.uint8)

    def let_go(self) -> None:
        """Gives the pages that this process has touched back to the system. They stay in the page cache."""
        if hasattr(mmap, "MADV_DONTNEED"):
            self._map.madvise(mmap.MADV_DONTNEED)

    def close(self) -> None:
        """Drops `bytes`. Reading through this object afterwards is a mistake of the caller."""
        self.bytes = np.empty(0, dtype=np.uint8)
