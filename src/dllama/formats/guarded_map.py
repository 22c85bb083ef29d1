"""Mapped files whose faults are said in one line.

Somebody cuts a file short, or overwrites it in place, while it is mapped; or its disk fails or is full: the system then
ends whoever looks at a page that is not there, without a word (SIGBUS). `MapGuard(map, line)` makes the process write
`line` to standard error first and end with exit code 1, for as long as the guard lives.
"""

from __future__ import annotations

import mmap

from dllama._native import MapGuard


class GuardedMap(mmap.mmap):
    """A map that its guard lives and goes with: views of it keep both."""

    guard: MapGuard


def guarded_map(fd: int, n_bytes: int, access: int, complaint: str) -> GuardedMap:
    """Maps the first `n_bytes` (0: all) of an open file; `access` is one of mmap's. `complaint` is what is said when
    they are no longer there. Raises what mmap raises."""
    mapped = GuardedMap(fd, n_bytes, access=access)
    mapped.guard = MapGuard(mapped, f"dllama: {' '.join(complaint.split())}")
    return mapped
