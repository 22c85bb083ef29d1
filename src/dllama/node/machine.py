"""What this computer has: memory that is free, and how much this process used."""

from __future__ import annotations

import resource
import socket
import sys
import uuid
from pathlib import Path

import psutil

_CGROUP = Path("/sys/fs/cgroup")


def machine_id() -> str:
    """The same for all processes of one computer, different between computers."""
    return f"{socket.gethostname()}/{uuid.getnode():012x}"


def available_memory_bytes() -> int:
    """What this process can still allocate: free memory, the container's limit and the process's own."""
    limits = [int(psutil.virtual_memory().available)]
    container = _container_limit_bytes()
    if container is not None:
        limits.append(container)
    address_space, _ = resource.getrlimit(resource.RLIMIT_AS)
    if address_space != resource.RLIM_INFINITY:
        limits.append(address_space - int(psutil.Process().memory_info().vms))
    return max(0, min(limits))


def peak_rss_bytes() -> int:
    """The most memory that was resident so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _container_limit_bytes() -> int | None:
    """Memory left in this cgroup (version 2), page cache that can be dropped not counted; None without a limit."""
    try:
        limit = (_CGROUP / "memory.max").read_text().strip()
        used = int((_CGROUP / "memory.current").read_text())
        stat = dict(line.split() for line in (_CGROUP / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):
        return None
    return None if limit == "max" else int(limit) - used + int(stat.get("inactive_file", 0))
