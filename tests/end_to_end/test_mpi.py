"""`mpiexec -n N dllama ...`: rank 0 is the root and the only one that prints, the others are its workers."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests

from support.api_process import ask, events_of
from support.endless import endless
from support.fork_server import heed_interrupts
from support.mpi_ranks import mpiexec
from support.processes import DLLAMA, Finished, inference, run_well

TIMEOUT_S = 60.0
EXACT = ("--weights-float-type", "f32", "--buffer-float-type", "f32")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(mpiexec() is None, reason="no mpiexec or no mpi4py: pip install 'dllama[mpi]' mpich"),
]


def start(n_ranks: int, *arguments: object) -> subprocess.Popen[str]:
    command = [str(mpiexec()), "-n", str(n_ranks), *DLLAMA, *map(str, arguments)]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, text=True, preexec_fn=heed_interrupts, **pipes)


def run(n_ranks: int, *arguments: object, typed: str = "") -> Finished:
    with start(n_ranks, *arguments) as process:
        out, err = process.communicate(typed, TIMEOUT_S)
        return Finished(process.returncode, out, err)


@pytest.fixture(scope="module")
def ids_of_one_node(tmp_path_factory: pytest.TempPathFactory) -> list[int]:
    path = tmp_path_factory.mktemp("one") / "report.json"
    run_well(*inference(*EXACT, "--report", path))
    return list(json.loads(path.read_text())["token_ids"])


@pytest.mark.parametrize("n_ranks", [1, 3, 4])
def test_a_job_gives_the_ids_of_one_node(n_ranks: int, tmp_path: Path, ids_of_one_node: list[int]) -> None:
    path = tmp_path / "report.json"
    finished = run(n_ranks, *inference(*EXACT, "--report", path))
    assert finished.code == 0, finished.err
    assert finished.out.count("Evaluation\n") == 1
    report = json.loads(path.read_text())
    assert report["token_ids"] == ids_of_one_node
    assert [node["rank"] for node in report["nodes"]] == list(range(n_ranks))
    assert all(node["weight_bytes"] > 0 for node in report["nodes"])
    assert len({node["address"] for node in report["nodes"]}) == n_ranks


def test_uneven_shares(tmp_path: Path, ids_of_one_node: list[int]) -> None:
    path = tmp_path / "report.json"
    assert run(3, *inference(*EXACT, "--shares", 3, 1, 1, "--report", path)).code == 0
    report = json.loads(path.read_text())
    assert report["token_ids"] == ids_of_one_node
    weights = [node["weight_bytes"] for node in report["nodes"]]
    assert weights[0] > 2 * weights[1]


def test_a_chat() -> None:
    finished = run(2, "chat", "--temperature", 0, "--nthreads", 1, typed="Hello\n/exit\n")
    assert finished.code == 0, finished.err
    assert finished.out.strip()
    assert finished.err.count("Ctrl-C stops a reply") == 1


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["--workers", "127.0.0.1:9990"], 2, "--workers cannot be given under mpiexec"),
        (["--shares", "1", "1"], 2, "--shares has 2 numbers for 3 nodes"),
        (["--nthreads", "9999"], 2, "--nthreads 9999"),
        (["--model", "/nowhere"], 1, "/nowhere"),
        (["--nonsense"], 2, "--nonsense"),
    ],
)
def test_a_wrong_use_is_one_line_from_rank_0(arguments: list[str], code: int, says: str) -> None:
    finished = run(3, *inference(*arguments))
    assert finished.code == code
    assert says in finished.error_line
    assert not finished.out


def test_commands_without_workers_run_once() -> None:
    finished = run(3, "--version")
    assert (finished.code, finished.out.count("dllama")) == (0, 1)


@contextlib.contextmanager
def serving() -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A job of 3 ranks that serves the demo model, and its URL."""
    with start(3, "api", "--port", 0, "--nthreads", 1) as process:
        assert process.stderr is not None
        lines = iter(process.stderr.readline, "")
        url = next(found[1] for line in lines if (found := re.search(r"is served on (\S+)", line)))
        try:
            yield process, url
        finally:
            process.kill()


def test_a_server_until_ctrl_c() -> None:
    with serving() as (process, url):
        question = ask("What is nine plus eight?") | {"model": "dllama-demo"}
        answer = requests.post(url + "/v1/chat/completions", json=question, timeout=TIMEOUT_S).json()
        assert answer["choices"][0]["message"]["content"] == "9 + 8 = 17."
        streamed = requests.post(
            url + "/v1/chat/completions", json=question | {"stream": True}, timeout=TIMEOUT_S
        )
        *events, done = events_of(streamed)
        assert done == "[DONE]"
        assert "".join(event["choices"][0]["delta"].get("content", "") for event in events) == "9 + 8 = 17."
        nodes = requests.get(url + "/api/cluster", timeout=TIMEOUT_S).json()["nodes"]
        assert [node["rank"] for node in nodes] == [0, 1, 2]
        assert all(node["mean"]["compute_s"] > 0 for node in nodes)
        ranks = _ranks(process.pid)
        process.send_signal(signal.SIGINT)  # the launcher passes it on to all ranks
        _, err = process.communicate(timeout=TIMEOUT_S)
        assert process.returncode == 130
        assert "Traceback" not in err
        assert not any(psutil.pid_exists(rank.pid) for rank in ranks)


def test_a_server_that_is_told_to_end() -> None:
    with serving() as (process, _):
        ranks = {rank.environ["PMI_RANK"]: rank.pid for rank in _ranks(process.pid)}
        os.kill(ranks["0"], signal.SIGTERM)
        _, err = process.communicate(timeout=TIMEOUT_S)
        assert process.returncode == 143
        assert "Traceback" not in err
        assert not any(psutil.pid_exists(pid) for pid in ranks.values())


def test_ctrl_c_in_the_middle_of_a_step() -> None:
    with start(3, *endless()) as process:
        assert process.stdout is not None
        next(line for line in process.stdout if line.startswith("Pred"))
        ranks = _ranks(process.pid)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=TIMEOUT_S)
        assert process.returncode == 130
        assert "Traceback" not in err
        assert not any(psutil.pid_exists(rank.pid) for rank in ranks)


def test_a_worker_that_is_killed_ends_the_job() -> None:
    with start(3, *endless()) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("Pred"):
                break
        victim = next(rank for rank in _ranks(process.pid) if rank.environ["PMI_RANK"] == "2")
        os.kill(victim.pid, signal.SIGKILL)
        process.communicate(timeout=TIMEOUT_S)
        assert process.returncode != 0
        assert not _ranks(process.pid)


@dataclasses.dataclass(frozen=True)
class _Rank:
    pid: int
    environ: dict[str, str]


def _ranks(pid: int) -> list[_Rank]:
    """The processes under an mpiexec that are ranks; what they start themselves has their environment too."""
    if not psutil.pid_exists(pid):
        return []
    ranks: dict[int, _Rank] = {}
    for child in psutil.Process(pid).children(recursive=True):  # parents come before their children
        if child.status() == psutil.STATUS_ZOMBIE or child.ppid() in ranks:
            continue
        if "PMI_RANK" in (environ := child.environ()):
            ranks[child.pid] = _Rank(child.pid, environ)
    return list(ranks.values())
