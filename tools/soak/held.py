"""What a process holds: memory, threads, descriptors and mappings, as Linux tells in /proc."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import psutil

_PROC = Path("/proc")


@dataclasses.dataclass(frozen=True)
class Held:
    """What a process holds at rest. `memory_mb` is its own (not shared with other processes), `mapped_mb` its address
    space; `deleted_files` are those that it alone still has."""

    memory_mb: float
    mapped_mb: float
    threads: int
    descriptors: int
    mappings: int
    deleted_files: int

    @classmethod
    def of(cls, process: psutil.Process) -> Held:
        memory = process.memory_full_info()
        maps = (_PROC / str(process.pid) / "maps").read_text().splitlines()
        return cls(
            memory_mb=memory.uss / 1e6,
            mapped_mb=memory.vms / 1e6,
            threads=process.num_threads(),
            descriptors=process.num_fds(),
            mappings=len(maps),
            deleted_files=sum(line.endswith("(deleted)") and "/dev/" not in line for line in maps),
        )


def is_told() -> bool:
    """Whether this system tells what its processes hold."""
    return (_PROC / "self" / "maps").exists()
