"""`dllama bench fabric` over loopback and under mpiexec."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from support.mpi_ranks import mpiexec
from support.processes import DLLAMA, WorkerPool, run_dllama, run_well

KEYS = {"names", "pairs", "collectives", "slow", "faults", "measured_token_s", "modelled_token_s", "shape"}


def check(path: Path, n_ranks: int) -> None:
    report = json.loads(path.read_text())
    assert set(report) == KEYS
    assert len(report["names"]) == len(report["faults"]) == n_ranks
    assert len(report["pairs"]) == n_ranks * (n_ranks - 1) // 2
    for pair in report["pairs"]:
        assert 0 < pair["latency_s"] < 30
        assert pair["there_mbit"] > 0
        assert pair["back_mbit"] > 0
    assert [c["n_bytes"] for c in report["collectives"][:3]] == [4352, 4352, 512 * 4352]
    assert all(0 < c["least_s"] <= c["median_s"] <= c["most_s"] for c in report["collectives"])
    assert set(report["measured_token_s"]) == set(report["modelled_token_s"]) == {"direct", "scattered"}


def test_over_tcp(tmp_path: Path, pool: WorkerPool) -> None:
    path = tmp_path / "fabric.json"
    addresses = pool.addresses(2)
    finished = run_well("bench", "fabric", "--json", path, "--workers", *addresses)
    check(path, 3)
    assert all(address in finished.out for address in addresses)


@pytest.mark.skipif(mpiexec() is None, reason="no mpiexec or no mpi4py: pip install 'dllama[mpi]' mpich")
def test_under_mpiexec(tmp_path: Path) -> None:
    path = tmp_path / "fabric.json"
    command = [str(mpiexec()), "-n", "2", *DLLAMA, "bench", "fabric", "--nthreads", "1", "--json", str(path)]
    subprocess.run(command, check=True, timeout=60, capture_output=True)
    check(path, 2)


def test_alone_there_is_nothing_to_measure() -> None:
    finished = run_dllama("bench", "fabric")
    assert finished.code == 2
    assert "(--workers)" in finished.error_line
