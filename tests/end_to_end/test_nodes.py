"""Any number of nodes give the text of one, and a worker serves one root after another."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dllama.fabric import format_address, own_hosts
from support.endless import endless
from support.processes import (
    DEMO_MODEL,
    Running,
    WorkerPool,
    inference,
    run_dllama,
    run_well,
    worker_processes,
)

STEPS = 24
EXACT = ("--weights-float-type", "f32", "--buffer-float-type", "f32")


def report_of(tmp_path: Path, *arguments: object, workers: list[str] | None = None) -> dict[str, Any]:
    path = tmp_path / "report.json"
    run_well(*inference(*arguments, "--report", path, workers=workers or [], steps=STEPS))
    report: dict[str, Any] = json.loads(path.read_text())
    path.unlink()
    return report


@pytest.fixture(scope="session")
def ids_of_one_node(tmp_path_factory: pytest.TempPathFactory) -> list[int]:
    ids = report_of(tmp_path_factory.mktemp("one"), *EXACT)["token_ids"]
    assert len(ids) == STEPS
    return list(ids)


@pytest.mark.parametrize(
    ("n_workers", "shares"), [(2, ()), (4, ()), (2, (3, 1, 1))], ids=["1+2", "1+4", "1+2 uneven"]
)
def test_n_nodes_give_the_ids_of_one(
    n_workers: int, shares: tuple[int, ...], tmp_path: Path, pool: WorkerPool, ids_of_one_node: list[int]
) -> None:
    flags = ("--shares", *shares) if shares else ()
    report = report_of(tmp_path, *EXACT, *flags, workers=pool.addresses(n_workers))
    assert report["token_ids"] == ids_of_one_node
    weights = [node["weight_bytes"] for node in report["nodes"]]
    assert weights[0] > 2 * weights[1] if shares else max(weights) < 1.3 * min(weights)


def test_q40_weights_and_f32_buffers(tmp_path: Path, pool: WorkerPool) -> None:
    alone = report_of(tmp_path, "--buffer-float-type", "f32")
    together = report_of(tmp_path, "--buffer-float-type", "f32", workers=pool.addresses(2))
    assert together["token_ids"] == alone["token_ids"]


@pytest.mark.parametrize("algorithm", ["direct", "scattered"])
def test_either_all_reduce_gives_the_ids_of_one(
    algorithm: str, tmp_path: Path, pool: WorkerPool, ids_of_one_node: list[int]
) -> None:
    report = report_of(tmp_path, *EXACT, "--all-reduce", algorithm, workers=pool.addresses(3))
    assert report["token_ids"] == ids_of_one_node


def test_report(tmp_path: Path, pool: WorkerPool) -> None:
    """Keys are the documented ones; bytes follow the formula: each rank sends all others its Q80 part twice for
    each layer, and the rest (inputs, headers) stays below 5 % of that and the embedded inputs."""
    addresses = pool.addresses(2)
    flags = ("--ignore-eos", "--all-reduce", "direct", "--weights-float-type", "q40")
    report = report_of(tmp_path, *flags, workers=addresses)
    assert set(report) >= {
        "model", "nodes", "token_ids", "n_prompt_tokens", "n_generated_tokens", "text", "load", "prefill", "decode",
    }  # fmt: skip
    assert report["model"] == {"family": "llama", "weight_type": "q40", "n_layers": 4, "dim": 256}
    assert [node["address"] for node in report["nodes"]] == ["root", *addresses]
    for rank, node in enumerate(report["nodes"]):
        assert set(node) == {"rank", "address", "weight_bytes", "kv_bytes", "peak_rss_bytes"}
        assert node["rank"] == rank
        assert node["kv_bytes"] > 0
        assert 20e6 < node["peak_rss_bytes"] < 400e6
    # 3 684 608 parameters, all but the tied embedding cut three ways, and the norms on all.
    assert 0.9 < sum(n["weight_bytes"] for n in report["nodes"]) / (3_670_016 / 32 * 18) < 1.1
    n_prompt, n_generated = report["n_prompt_tokens"], report["n_generated_tokens"]
    assert n_prompt + n_generated == len(report["token_ids"]) == STEPS
    assert "Once upon a time" not in report["text"]
    assert report["load"]["seconds"] > 0
    assert set(report["load"]) == {"seconds", "sent_bytes"}
    sent_weights = sum(node["weight_bytes"] for node in report["nodes"][1:])
    assert sent_weights <= report["load"]["sent_bytes"] <= sent_weights + 50_000
    assert set(report["prefill"]) == {"tokens", "seconds", "tok_per_s"}
    assert report["prefill"]["tokens"] == n_prompt
    decode = report["decode"]
    assert set(decode) == {
        "tokens", "seconds", "tok_per_s", "eval_ms_per_tok", "sync_ms_per_tok", "sent_bytes_per_tok",
        "recv_bytes_per_tok",
    }  # fmt: skip
    assert decode["tokens"] == n_generated - 1  # the first token comes out of the prompt's last step
    assert decode["tok_per_s"] == pytest.approx(decode["tokens"] / decode["seconds"])
    n_layers, dim, n_others = 4, 256, 2
    partial_sums = 2 * n_layers * n_others * (dim // 32 * 34)
    inputs = n_others * 2 * dim  # the demo model's embedding was bf16
    assert partial_sums + inputs <= decode["sent_bytes_per_tok"] <= 1.05 * partial_sums + inputs
    # Of greedy text a worker answers its times and one candidate: an id, its logit, a target's logit and two sums.
    assert decode["recv_bytes_per_tok"] == partial_sums + n_others * (24 + 28)
    assert report["n_whole_logits"] == 0
    timeline = report["timeline"]
    assert timeline["waited_for"] in (None, 0, 1, 2)
    assert [set(node) for node in timeline["nodes"]] == [{"rank", "compute_ms", "wait_ms", "wire_ms"}] * 3
    for node in timeline["nodes"]:
        assert node["compute_ms"] > 0
        assert min(node["wait_ms"], node["wire_ms"]) >= 0


def test_a_second_root_is_told_who_is_served(pool: WorkerPool) -> None:
    worker = pool.take(1)[0]
    n_served = worker.err.count(r"is (done|gone)")
    with Running(*endless(workers=[worker.address])) as first:
        first.out.wait_for("Pred", 3)
        first.pause()  # it cannot end before the second one has asked
        name = worker.err.wait_for(r"serving (\S+)", n_served + 1)[1]
        second = run_dllama(*inference("--model", DEMO_MODEL, workers=[worker.address]))
        assert second.code == 1
        assert f"worker {worker.address} is busy with {name}" in second.error_line
        first.kill()
    # The root is gone without a word; the worker sees that and takes the next one at once.
    assert run_dllama(*inference(workers=[worker.address], steps=8)).code == 0
    worker.wait_until_free(n_served + 2)


def test_logits_of_the_prompt(tmp_path: Path, pool: WorkerPool) -> None:
    path = tmp_path / "logits.npy"
    report = report_of(tmp_path, *EXACT, "--logits", path)
    alone = np.load(path)
    assert alone.dtype == np.float32
    assert alone.shape == (report["n_prompt_tokens"], 2048)
    assert int(np.argmax(alone[-1])) == report["token_ids"][report["n_prompt_tokens"]]
    report_of(tmp_path, *EXACT, "--logits", path, workers=pool.addresses(2))
    np.testing.assert_allclose(np.load(path), alone, atol=1e-4 * np.abs(alone).max())


def test_kv_cache_on_disk_gives_the_same_ids(tmp_path: Path, ids_of_one_node: list[int]) -> None:
    folders = [tmp_path / "root", tmp_path / "worker"]
    for folder in folders:
        folder.mkdir()
    with worker_processes(1, "--kv-cache-storage", "disk", "--kv-cache-dir", folders[1]) as (worker,):
        report = report_of(
            tmp_path,
            *EXACT,
            "--kv-cache-storage",
            "disc",
            "--kv-cache-dir",
            folders[0],
            workers=[worker.address],
        )
        worker.wait_until_free(1)
        assert report["token_ids"] == ids_of_one_node
        assert [list(folder.iterdir()) for folder in folders] == [[], []]


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="this computer has no IPv6")
def test_workers_are_reached_by_both_kinds_of_addresses(tmp_path: Path, ids_of_one_node: list[int]) -> None:
    """One by IPv4, one by IPv6, and the workers among themselves as the root reaches them."""
    with (
        Running("worker", "--port", 0, "--nthreads", 1) as first,
        Running("worker", "--port", 0, "--nthreads", 1) as second,
    ):
        ports = [worker.err.wait_for(r"listens on \S+:(\d+)")[1] for worker in (first, second)]
        for hosts in (("127.0.0.1", "[::1]"), ("[::1]", "127.0.0.1")):
            addresses = [f"{host}:{port}" for host, port in zip(hosts, ports, strict=True)]
            assert report_of(tmp_path, *EXACT, workers=addresses)["token_ids"] == ids_of_one_node


def test_a_worker_says_what_to_type_at_the_root() -> None:
    with Running("worker", "--port", 0, "--nthreads", 1) as worker:
        port = worker.err.wait_for(r"listens on \S+:(\d+)")[1]
        said = worker.err.wait_for("at the root: .*|in no network")[0]
        for host in own_hosts():
            assert format_address(host, int(port)) in said
