"""Damaged headers, thousands of them: each is read or refused in a line, at once, in no more memory than a file of its
size may take."""

from __future__ import annotations

import itertools
import os
import time
import tracemalloc

import psutil
import pytest

from support.gguf_mutants import mutants, outcome, sound_files

ALLOWED_FOR_A_BYTE, ALLOWED_BESIDE = 64, 1 << 16
"""A key of 13 bytes becomes objects of some 300, and an error has its frames."""


def test_sound_files_are_read() -> None:
    assert [outcome(data) for data in sound_files()] == ["read"] * 4


def test_damaged_headers_are_read_or_refused() -> None:
    seen = set()
    for data in itertools.islice(mutants(seed=1), 3000):
        line = outcome(data)
        assert line.isprintable()
        assert len(line) < 600
        seen.add(line.split(";")[0][:30])
    assert "read" in seen
    assert len(seen) > 40


def test_damaged_headers_take_no_memory() -> None:
    cases = list(itertools.islice(mutants(seed=2), 1000))
    tracemalloc.start()
    try:
        for data in cases:
            tracemalloc.reset_peak()
            before, _ = tracemalloc.get_traced_memory()
            outcome(data)
            _, peak = tracemalloc.get_traced_memory()
            assert peak - before <= ALLOWED_BESIDE + ALLOWED_FOR_A_BYTE * len(data), data
    finally:
        tracemalloc.stop()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_million_damaged_headers() -> None:
    """`pytest -m slow -s` shows the rate."""
    memory = psutil.Process().memory_info
    before, begin, n_read, slowest = memory().rss, time.perf_counter(), 0, 0.0
    for data in itertools.islice(mutants(seed=int(os.environ.get("SEED", "3"))), 1_000_000):
        started = time.thread_time()
        n_read += outcome(data) == "read"
        slowest = max(slowest, time.thread_time() - started)
    took = time.perf_counter() - begin
    print(
        f"{1e6 / took:.0f} headers/s, {n_read} of a million are read, the slowest in {slowest * 1e3:.1f} ms of work"
    )
    assert memory().rss - before < 1 << 26
    assert slowest < 0.5
