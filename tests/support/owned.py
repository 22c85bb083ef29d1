"""What there is in this process of what sessions may own; what is more afterwards than before has been left behind."""

from __future__ import annotations

import collections
import gc
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import psutil

_ROOMS = ("dllama", "socket", "threading", "concurrent", "mmap")
_REST_S = 2.0


@contextmanager
def no_collector() -> Iterator[None]:
    """The garbage collector does not run: what is freed is freed by who owned it."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def owned() -> collections.Counter[str]:
    """Objects by type, also those that nobody can reach any more; threads, descriptors, mapped cache files."""
    process = psutil.Process()
    kinds = (type(one) for one in gc.get_objects())
    counts = collections.Counter(
        f"{kind.__module__}.{kind.__qualname__}"
        for kind in kinds
        if str(kind.__module__).partition(".")[0] in _ROOMS
    )
    counts["threads"] = threading.active_count()
    counts["descriptors"] = process.num_fds()
    counts["mapped cache files"] = sum("dllama-kv-" in of_map.path for of_map in process.memory_maps())
    return counts


def left_since(before: collections.Counter[str]) -> collections.Counter[str]:
    """What there is more than `before`, once other threads have come to rest: empty where nothing was left behind."""
    deadline = time.monotonic() + _REST_S
    while (left := owned() - before) and time.monotonic() < deadline:
        time.sleep(0.01)
    return left
