"""What a server does with memory that requests have left, once nobody asks."""

from __future__ import annotations

import platform
import subprocess
import sys
import threading

import pytest

from support.processes import TIMEOUT_S

from .test_connections import GET, PATIENT, WAIT, Server, answer, closing

FRAGMENTS = """
import psutil
from dllama.host.spare_memory import give_back_spare_memory

kept = [bytes(2000) for _ in range(50_000)]
del kept[:-1]  # the last one holds the end of the heap
before = psutil.Process().memory_info().rss
give_back_spare_memory()
print(before - psutil.Process().memory_info().rss)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library keeps no such heaps")
def test_free_memory_within_the_heap_is_given_back() -> None:
    n_bytes = subprocess.run(
        [sys.executable, "-c", FRAGMENTS], capture_output=True, check=True, text=True
    ).stdout
    assert int(n_bytes) > 90_000_000  # of 100


@pytest.mark.slow
def test_memory_is_given_back_when_nobody_is_served(monkeypatch: pytest.MonkeyPatch) -> None:
    given_back = threading.Semaphore(0)
    monkeypatch.setattr("dllama.server.run.give_back_spare_memory", given_back.release)
    with Server(PATIENT) as server:
        waiting = server.connect(closing(WAIT))
        assert server.entered.acquire(timeout=TIMEOUT_S)
        assert answer(server.connect(closing(GET))).endswith(b"ok\r\n0\r\n\r\n")
        assert not given_back.acquire(timeout=3.5)  # longer than one look
        server.may_end.set()
        answer(waiting)
        assert given_back.acquire(timeout=TIMEOUT_S)
        assert not given_back.acquire(timeout=3.5)  # nobody asked since
