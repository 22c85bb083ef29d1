"""Which processors compute, on /sys trees like those of real computers."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dllama.node.cores import choose_processors, default_threads, fast_cores, quota_processors, use_processors


def tree(root: Path, files: dict[str, object]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")
    return root


def cpus(siblings: dict[int, str], more: dict[str, list[int]] | None = None) -> dict[str, object]:
    files: dict[str, object] = {}
    for number, text in siblings.items():
        files[f"devices/system/cpu/cpu{number}/topology/core_cpus_list"] = text
    for name, values in (more or {}).items():
        for number, value in enumerate(values):
            files[f"devices/system/cpu/cpu{number}/{name}"] = value
    return files


@pytest.fixture
def desktop(tmp_path: Path) -> Path:
    """Four cores of two hardware threads each; the best core's clock is a little higher."""
    siblings = {number: f"{number % 4},{number % 4 + 4}" for number in range(8)}
    return tree(
        tmp_path, cpus(siblings, {"cpufreq/cpuinfo_max_freq": [5000000, 5100000, 5000000, 4900000] * 2})
    )


@pytest.fixture
def laptop(tmp_path: Path) -> Path:
    """Two performance cores of two threads, four efficient cores; the clocks alone would not tell them apart."""
    siblings = {0: "0-1", 1: "0-1", 2: "2-3", 3: "2-3", 4: "4", 5: "5", 6: "6", 7: "7"}
    files = cpus(siblings, {"cpufreq/cpuinfo_max_freq": [4700000] * 4 + [3500000] * 4})
    return tree(tmp_path / "laptop", files | {"devices/cpu_core/cpus": "0-3", "devices/cpu_atom/cpus": "4-7"})


@pytest.fixture
def board(tmp_path: Path) -> Path:
    """Four small and four large cores, as an RK3588 has them."""
    siblings = {number: str(number) for number in range(8)}
    return tree(tmp_path / "board", cpus(siblings, {"cpu_capacity": [530] * 4 + [1024] * 4}))


def test_alike_cores_all_compute(desktop: Path) -> None:
    assert [core.processors for core in fast_cores(desktop, range(8))] == [(1, 5), (0, 4), (2, 6), (3, 7)]
    assert choose_processors(desktop, range(8), 4) == set(range(8))


def test_performance_cores_by_name(laptop: Path) -> None:
    assert [core.processors for core in fast_cores(laptop, range(8))] == [(0, 1), (2, 3)]
    assert choose_processors(laptop, range(8), 2) == {0, 1, 2, 3}
    assert choose_processors(laptop, range(8), 3) == set(range(8))


def test_performance_cores_by_capacity(board: Path) -> None:
    assert choose_processors(board, range(8), 4) == {4, 5, 6, 7}
    assert choose_processors(board, range(8), 8) == set(range(8))


def test_only_what_was_given(laptop: Path, board: Path) -> None:
    assert choose_processors(laptop, {3, 5, 6}, 1) == {3}
    assert choose_processors(laptop, {5, 6}, 2) == {5, 6}
    assert choose_processors(board, {0, 1, 7}, 1) == {7}


def test_a_computer_that_shows_nothing(tmp_path: Path) -> None:
    assert [core.processors for core in fast_cores(tmp_path, {2, 0})] == [(0,), (2,)]
    assert choose_processors(tmp_path, {2, 0}, 1) == {0, 2}


@pytest.mark.parametrize(
    ("text", "wanted"),
    [("max 100000", None), ("250000 100000", 2), ("50000 100000", 1), ("", None), ("nonsense", None)],
)
def test_quota(tmp_path: Path, text: str, wanted: int | None) -> None:
    assert quota_processors(tree(tmp_path, {"fs/cgroup/cpu.max": text})) == wanted


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system has no affinity")
def test_affinity_is_honoured() -> None:
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert default_threads() == 1
        use_processors(1)
        assert os.sched_getaffinity(0) == {min(before)}
    finally:
        os.sched_setaffinity(0, before)
