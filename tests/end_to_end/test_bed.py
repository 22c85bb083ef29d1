"""Nodes on a virtual switch with limited links (tools/testbed.py): ids, bytes on the wire, slow links, addresses."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import testbed
from support.processes import DLLAMA, Finished, inference, run_well, wait_until

EXACT = ("--weights-float-type", "f32", "--buffer-float-type", "f32")
TIMEOUT_S = 90.0
WITHOUT = testbed.missing()
pytestmark = [
    pytest.mark.slow,  # networks are made and taken down
    pytest.mark.skipif(WITHOUT is not None, reason=f"no test bed: {WITHOUT}"),
]


@pytest.fixture(scope="module")
def ids_of_one_node(tmp_path_factory: pytest.TempPathFactory) -> list[int]:
    path = tmp_path_factory.mktemp("one") / "report.json"
    run_well(*inference(*EXACT, "--report", path))
    return list(json.loads(path.read_text())["token_ids"])


def run_on(bed: testbed.Bed, *arguments: object) -> Finished:
    """`dllama ARGUMENTS` on node 0."""
    command = bed.command(0, *DLLAMA, *arguments)
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    return Finished(done.returncode, done.stdout, done.stderr)


def report_of(bed: testbed.Bed, path: Path, workers: Sequence[str], *arguments: object) -> dict[str, Any]:
    finished = run_on(bed, *inference(*arguments, "--report", path, workers=workers))
    assert finished.code == 0, finished.err
    report: dict[str, Any] = json.loads(path.read_text())
    sent_kb = re.findall(r"Sent to .* (\d+) kB while computing", finished.out)
    report["sent_while_computing"] = 1000 * sum(map(int, sent_kb))
    return report


@pytest.mark.parametrize("n_nodes", [2, 4, 8])
def test_ids_and_bytes_over_1_gbit(n_nodes: int, tmp_path: Path, ids_of_one_node: list[int]) -> None:
    """What the fabric counts is what crosses the root's link: headers of TCP, IP and Ethernet (66 bytes a packet),
    acknowledgements, greetings and plans come on top."""
    with testbed.Bed(n_nodes) as bed, testbed.workers(bed, "--nthreads", 1) as addresses:
        before = bed.link_bytes(0)
        report = report_of(bed, tmp_path / "report.json", addresses, *EXACT)
        after = bed.link_bytes(0)
    assert report["token_ids"] == ids_of_one_node
    counted = report["load"]["sent_bytes"] + report["sent_while_computing"]
    on_the_wire = after.sent - before.sent
    assert counted <= on_the_wire <= 1.10 * counted + 20_000 * (n_nodes - 1)
    assert after.received > before.received


def test_a_link_at_100_mbit_is_named(tmp_path: Path) -> None:
    path = tmp_path / "fabric.json"
    with (
        testbed.Bed(3, rates={2: "100mbit"}) as bed,
        testbed.workers(bed, "--nthreads", 1) as addresses,
    ):
        finished = run_on(
            bed, "bench", "fabric", "--shape", "qwen3-0.6b", "--json", path, "--workers", *addresses
        )
    assert finished.code == 0, finished.err
    slow = json.loads(path.read_text())["slow"]
    assert slow.startswith(f"the link of {addresses[1]}:")
    assert f"slow: {slow}" in " ".join(finished.out.split())


def test_a_worker_on_the_roots_own_computer_is_found_by_the_others(
    tmp_path: Path, ids_of_one_node: list[int]
) -> None:
    """The root reaches it on loopback, which is another place for the worker on node 1: its own."""
    with testbed.Bed(2) as bed, testbed.workers(bed, "--nthreads", 1) as (far,):
        near = bed.popen(
            0, *DLLAMA, "worker", "--port", 9991, "--nthreads", 1, stderr=subprocess.PIPE, text=True
        )
        with near:
            try:
                assert near.stderr is not None
                assert any("listens on" in line for line in iter(near.stderr.readline, ""))
                workers = ["127.0.0.1:9991", far]
                report = report_of(bed, tmp_path / "report.json", workers, *EXACT)
            finally:
                near.kill()
    assert report["token_ids"] == ids_of_one_node
    assert [node["address"] for node in report["nodes"]] == ["root", *workers]


def test_a_way_over_a_router_is_warned_of(tmp_path: Path) -> None:
    """Node 1 has a second address in another network, which the root reaches only through a gateway."""
    with testbed.Bed(2) as bed:
        for node, words in (
            (1, ("address", "add", "10.88.0.1/32", "dev", "eth0")),
            (0, ("route", "add", "10.88.0.1/32", "via", bed.address(1))),
        ):
            assert subprocess.run(bed.command(node, "ip", *words), check=False).returncode == 0
        with testbed.workers(bed, "--nthreads", 1, "--host", "0.0.0.0"):
            finished = run_on(
                bed, "bench", "fabric", "--shape", "qwen3-0.6b", "--workers", f"10.88.0.1:{testbed.PORT}"
            )
    assert finished.code == 0, finished.err
    assert f"root: the way to 10.88.0.1 leads through the router {bed.address(1)}" in finished.err


def test_a_bed_whose_maker_was_killed_is_removed_by_the_next() -> None:
    tool = [sys.executable, testbed.__file__, "--nodes", "2", "--everywhere", "sleep", "600"]
    with subprocess.Popen(tool) as process:
        name = f"dllama-bed.{process.pid}."
        wait_until(lambda: name in namespaces() and bool(pids(f"{name}0.1")))
        left = pids(f"{name}0.1")
        process.send_signal(signal.SIGKILL)
    assert name in namespaces()
    testbed.remove_left_behind()
    assert name not in namespaces()
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in left))


def test_a_bed_leaves_nothing_behind() -> None:
    with testbed.Bed(1) as bed:
        process = bed.popen(0, "sleep", "600")
        started = time.monotonic()
    assert process.wait(TIMEOUT_S) == -signal.SIGKILL
    assert time.monotonic() - started < TIMEOUT_S
    assert bed.command(0)[3] not in namespaces()


def namespaces() -> str:
    return subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout


def pids(namespace: str) -> list[str]:
    command = ["ip", "netns", "pids", namespace]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.split()
