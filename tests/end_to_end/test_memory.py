"""Each node's memory is its share of the weights, its KV cache and a fixed part, however large the file."""

from __future__ import annotations

import dataclasses
import json
import shutil
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from dllama.checkpoint import open_checkpoint
from dllama.checkpoint.m.config import header_from_config
from dllama.dtypes import ElementType
from dllama.formats.m_file import encode_header
from support.alike import alike
from support.processes import DEMO_MODEL, inference, run_well, worker_processes

FIXED_BYTES = 150_000_000
MAX_SEQ_LEN = 512


@pytest.fixture(scope="module")
def large_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A q40 model of 290 MB, of one random tensor's bytes again and again, with the demo's vocabulary."""
    demo = alike(open_checkpoint(DEMO_MODEL, ElementType.Q40).config)
    numbers = dataclasses.replace(
        demo, dim=2048, ffn_dim=8192, n_layers=8, n_heads=32, n_kv_heads=8, head_dim=64
    )
    specs = list(numbers.model)
    folder = tmp_path_factory.mktemp("large")
    if shutil.disk_usage(folder).free < 2 * sum(spec.n_bytes for spec in specs):
        pytest.skip("less than 600 MB of free disk space")
    random = np.random.default_rng(1)
    n_blocks = max(spec.n_bytes for spec in specs) // 18
    blocks = np.empty(n_blocks, np.dtype([("scale", "<f2"), ("nibbles", "u1", 16)]))
    blocks["scale"] = random.normal(0, 0.005, n_blocks)
    blocks["nibbles"] = random.integers(0, 256, (n_blocks, 16), np.uint8)
    data = blocks.tobytes()
    embedding = random.normal(0, 1, numbers.vocab_size * numbers.dim).astype(np.float32).tobytes()
    path = folder / "large.m"
    with path.open("wb") as file:
        file.write(encode_header(header_from_config(numbers.config, numbers.weight_type)))
        for spec in specs:
            file.write(data[: spec.n_bytes] if spec.dtype.is_blocked else embedding[: spec.n_bytes])
    return path


def test_memory_of_root_and_worker(large_model: Path, tmp_path: Path) -> None:
    report_file = tmp_path / "report.json"
    with worker_processes(1) as (worker,):
        run_well(
            *inference("--model", large_model, "--tokenizer", DEMO_MODEL, "--report", report_file),
            *("--max-seq-len", MAX_SEQ_LEN, "--ignore-eos", "--workers", worker.address),
        )
    report = json.loads(report_file.read_text())
    assert report["model"]["dim"] == 2048
    file_bytes = large_model.stat().st_size
    plain_s = seconds_of(lambda: copy_over_a_socket(large_model, report["load"]["sent_bytes"]))
    print(f"load {report['load']['seconds']:.2f} s; the same bytes over a plain socket {plain_s:.2f} s")
    for node in report["nodes"]:
        assert node["weight_bytes"] < 0.55 * file_bytes
        allowed = 1.05 * node["weight_bytes"] + node["kv_bytes"] + FIXED_BYTES
        print(f"rank {node['rank']}: {node['peak_rss_bytes'] / 1e6:.0f} MB of {allowed / 1e6:.0f} MB")
        assert node["peak_rss_bytes"] <= allowed, node


def seconds_of(action: Callable[[], None]) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def copy_over_a_socket(path: Path, n_bytes: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        sender = socket.create_connection(listener.getsockname())
        receiver, _ = listener.accept()

    def send() -> None:
        with sender, path.open("rb") as file:
            sender.sendfile(file, 0, n_bytes)

    thread = threading.Thread(target=send)
    thread.start()
    buffer = bytearray(1 << 20)
    with receiver:
        while receiver.recv_into(buffer):
            pass
    thread.join()
