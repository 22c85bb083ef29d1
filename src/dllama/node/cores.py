"""Which processors compute: the fast ones, one thread for each core, within what this process was given.

What is read is what Linux shows under /sys (Documentation/ABI/testing/sysfs-devices-system-cpu of the kernel).
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Collection
from pathlib import Path

import psutil

_SYS = Path("/sys")

_FAST = 0.7
"""Cores at least this fast beside the fastest count as fast. Equal cores may differ by some percent in their highest
clock; the middle cores of phones and boards with two or three kinds reach 0.8, the small ones 0.3 to 0.5."""


@dataclasses.dataclass(frozen=True)
class Core:
    """A physical core: the processors (hardware threads) of it that this process may use, and its speed beside other
    cores of this computer."""

    processors: tuple[int, ...]
    speed: float


def fast_cores(sys_root: Path, allowed: Collection[int]) -> list[Core]:
    """The cores of `allowed` processors worth computing on, fastest first; all where they are alike or unknown."""
    cores = sorted(_cores(sys_root, allowed), key=lambda core: (-core.speed, core.processors))
    return [core for core in cores if core.speed >= _FAST * cores[0].speed]


def choose_processors(sys_root: Path, allowed: Collection[int], n_threads: int) -> set[int]:
    """Processors for n_threads threads: those of the fast cores, and all allowed ones when these are not enough."""
    fast = fast_cores(sys_root, allowed)
    return {number for core in fast for number in core.processors} if n_threads <= len(fast) else set(allowed)


def default_threads() -> int:
    """One for each fast core that this process may use, within the container's processor time."""
    allowed = _allowed_processors()
    if allowed is None:
        return psutil.cpu_count(logical=False) or psutil.cpu_count() or 1
    return max(1, min(len(fast_cores(_SYS, allowed)), quota_processors(_SYS) or len(allowed)))


def use_processors(n_threads: int) -> None:
    """Keeps this thread, and those that it starts from now on, on the processors chosen for n_threads."""
    allowed = _allowed_processors()
    if allowed is None:
        return
    chosen = choose_processors(_SYS, allowed, n_threads)
    if chosen != set(allowed):
        os.sched_setaffinity(0, chosen)


def quota_processors(sys_root: Path) -> int | None:
    """Whole processors whose time this container (cgroup version 2) gets, 1 at least; None without a limit."""
    quota, _, period = _text(sys_root / "fs/cgroup/cpu.max").partition(" ")
    if not (quota.isdigit() and period.isdigit() and int(period)):
        return None
    return max(1, int(quota) // int(period))


def _allowed_processors() -> set[int] | None:
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None


def _cores(sys_root: Path, allowed: Collection[int]) -> list[Core]:
    # Only where Intel's kinds of cores are mixed.
    performance = _numbers(_text(sys_root / "devices/cpu_core/cpus"))
    siblings: dict[frozenset[int], list[int]] = {}
    for number in sorted(allowed):
        cpu = sys_root / f"devices/system/cpu/cpu{number}"
        text = _text(cpu / "topology/core_cpus_list") or _text(cpu / "topology/thread_siblings_list")
        siblings.setdefault(frozenset(_numbers(text)) or frozenset([number]), []).append(number)

    def speed(number: int) -> float:
        if performance:
            return 1.0 if number in performance else 0.5
        cpu = sys_root / f"devices/system/cpu/cpu{number}"
        text = _text(cpu / "cpu_capacity") or _text(cpu / "cpufreq/cpuinfo_max_freq")
        return float(text) if text.isdigit() else 0.0

    return [Core(tuple(members), speed(members[0])) for members in siblings.values()]


def _numbers(text: str) -> set[int]:
    """What "0-3,8" stands for; nothing where the text is no such list."""
    numbers: set[int] = set()
    for part in text.split(","):
        first, _, last = part.partition("-")
        if not first.isdigit() or not (last or first).isdigit():
            return set()
        numbers.update(range(int(first), int(last or first) + 1))
    return numbers


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
