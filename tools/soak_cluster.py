"""An hour of mixed load with faults on workers and the API, all on this computer, and whether they are as at the start.

    python tools/soak_cluster.py --minutes 60 [--seed 1] [--report soak.json]

Clients of the API ask, stream, hang up, send nonsense (tools/soak/load.py); meanwhile a worker is killed and started
again, frozen, roots of another worker are interrupted and killed, ports get garbage and idle connections
(tools/soak/faults.py). After each cycle of every fault all is quiet for a moment, and memory, threads, descriptors,
mappings and log of the API and of two workers are looked at. Ends with 1 when one of them grew, when an answer was
one that should not be, or when the cluster did not come back. Everything stays on loopback.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path

import requests
from rich.console import Console
from rich.table import Table

from soak.faults import FAULTS
from soak.held import is_told
from soak.load import Clients
from soak.processes import Cluster, Figures, running_cluster

_N_CLIENTS = 3
_READY_S = 60.0
_REST_S = 8.0
"""Longer than the API keeps the connections of clients that have gone."""

_N_WARM = 4
"""Cycles until every buffer and pool has had its largest size: the most that is held by then is the start."""

_MEMORY_MB = 12.0
"""What the allocator's fragments may differ by between two looks."""

_MAPPED_MB = 256.0
"""Arenas of malloc's (64 MB) and stacks of threads (8 MB) come and go."""

_LOG_KB_PER_REQUEST = 0.25
"""A line for each; and a few for each fault."""


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--report", type=Path, metavar="FILE", help="every look as JSON")
    args = parser.parse_args()
    console = Console()
    if not is_told():
        console.print("this system does not tell what a process holds (/proc): run it on Linux")
        return 1
    with (
        tempfile.TemporaryDirectory(prefix="dllama-soak-") as folder,
        running_cluster(Path(folder)) as cluster,
    ):
        clients = Clients(cluster.api.address, _N_CLIENTS, args.seed)
        try:
            looks = soak(cluster, clients, args.minutes * 60, random.Random(args.seed), console)
        except NotBackError as error:
            console.print(f"[red]{error}[/red]\n{cluster.api.log_tail()}", highlight=False)
            return 1
        tracebacks = {p.name: p.tracebacks() for p in cluster.watched}
    if args.report:
        args.report.write_text(
            json.dumps([{n: dataclasses.asdict(f) for n, f in look.items()} for look in looks])
        )
    return report(console, looks, clients, tracebacks)


class NotBackError(Exception):
    """The cluster does not answer although every node is there."""


def soak(
    cluster: Cluster, clients: Clients, seconds: float, rng: random.Random, console: Console
) -> list[dict[str, Figures]]:
    """One look at the watched programs for each cycle, the first before any load."""
    end = time.monotonic() + seconds
    _wait_until_ready(cluster)
    looks = [{program.name: program.figures() for program in cluster.watched}]
    while time.monotonic() < end or len(looks) <= _N_WARM + 3:
        clients.begin(len(looks))
        for fault in rng.sample(FAULTS, len(FAULTS)):
            time.sleep(rng.uniform(0.5, 2.0))
            fault(cluster, rng)
        _wait_until_ready(cluster)
        clients.rest()
        _wait_until_ready(cluster)
        time.sleep(_REST_S)
        looks.append({program.name: program.figures() for program in cluster.watched})
        now = ", ".join(
            f"{name} {f.memory_mb:.0f} MB {f.threads} threads {f.descriptors} descriptors {f.mappings} mappings"
            for name, f in looks[-1].items()
        )
        n_asked = sum(clients.outcomes.values())
        console.print(f"cycle {len(looks) - 1}, {n_asked} requests: {now}", highlight=False, soft_wrap=True)
    return looks


def report(
    console: Console, looks: list[dict[str, Figures]], clients: Clients, tracebacks: dict[str, list[str]]
) -> int:
    """Prints what was seen; returns the exit code."""
    table = Table("process", "what", "before any load", "start (warm)", "end", "grew")
    n_grown = 0
    n_asked = sum(clients.outcomes.values())
    first, warm, last = looks[0], looks[1 : 1 + _N_WARM], looks[-3:]
    for name in first:
        for field in dataclasses.fields(Figures):
            start = max(getattr(look[name], field.name) for look in warm)
            end = statistics.median(getattr(look[name], field.name) for look in last)
            has_grown = end - start > _allowed(field.name, start, n_asked)
            n_grown += has_grown
            before = getattr(first[name], field.name)
            table.add_row(
                name, field.name, f"{before:.5g}", f"{start:.5g}", f"{end:.5g}", "yes" if has_grown else ""
            )
    console.print(table)
    for (what, outcome), n in sorted(clients.outcomes.items()):
        console.print(f"{n:6} {what}: {outcome}", highlight=False)
    for (what, outcome), n in clients.faults.items():
        console.print(f"[red]{what} ended {n} times with: {outcome}[/red]", highlight=False)
    for name, texts in tracebacks.items():
        for text in texts:
            console.print(f"in the log of {name}:\n{text}", style="red", highlight=False, markup=False)
    is_good = not n_grown and not clients.faults and not any(tracebacks.values())
    console.print("as at the start" if is_good else "[red]not as at the start[/red]")
    return 0 if is_good else 1


def _allowed(what: str, start: float, n_asked: int) -> float:
    """By how much a figure may differ from the start."""
    return {
        "memory_mb": _MEMORY_MB,
        "mapped_mb": _MAPPED_MB,
        "mappings": 0.05 * start,
        "log_kb": _LOG_KB_PER_REQUEST * n_asked,
    }.get(what, 0.0)


def _wait_until_ready(cluster: Cluster) -> None:
    """Until the API answers and every worker has taken up its work again."""
    deadline = time.monotonic() + _READY_S
    reason = "nothing answers"
    while time.monotonic() < deadline:
        try:
            health = requests.get(f"{cluster.api.address}/health", timeout=5.0)
            reason = health.text
            if health.status_code == 200:
                return
        except requests.RequestException as error:
            reason = str(error)
        time.sleep(0.2)
    raise NotBackError(f"the cluster is not back after {_READY_S:g} s: {reason}")


if __name__ == "__main__":
    sys.exit(main())
