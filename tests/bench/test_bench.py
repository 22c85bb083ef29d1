"""`dllama bench`: what it measures and how much memory it takes. How fast, no test asks."""

from __future__ import annotations

import json
import platform
from pathlib import Path
from typing import Any

import pytest

from dllama.bench import SHAPES, measure_kernels, n_kernels
from dllama.kernels import Compute, supported_isas
from support.processes import run_well, worker_processes

BESIDE_WEIGHTS_BYTES = 600_000_000
"""The program, what reading is measured on (256 MB), and the buffers of a step: the same however large the model."""


def bench(json_file: Path, *arguments: object) -> dict[str, Any]:
    run_well("bench", *arguments, "--nthreads", 1, "--repeat", 1, "--json", json_file)
    values: dict[str, Any] = json.loads(json_file.read_text())
    return values


@pytest.mark.slow
def test_a_trimmed_shape_takes_its_weights_and_a_fixed_part(tmp_path: Path) -> None:
    values = bench(
        tmp_path / "numbers.json",
        *("--shape", "llama-3.1-8b", "--layers", 2, "--prompt", 4, "--gen", 2),
    )
    shape = SHAPES["llama-3.1-8b"]
    layer = shape.dim * (2 * 4096 + 2 * 1024 + 3 * 14336)
    head = shape.dim * shape.vocab_size
    assert values["weight_bytes_per_token"] == pytest.approx((2 * layer + head) * 18 / 32, rel=0.001)
    if platform.system() == "Linux":
        assert values["peak_rss_bytes"] <= values["weight_bytes_per_token"] + BESIDE_WEIGHTS_BYTES
    assert values["decode_tok_per_s_min"] <= values["decode_tok_per_s"] <= values["decode_tok_per_s_max"]
    assert values["context_times_reading"] is None
    assert values["decode_sent_bytes_per_tok"] == values["decode_recv_bytes_per_tok"] == 0


@pytest.mark.slow
def test_a_context_is_read_at_each_step(tmp_path: Path) -> None:
    values = bench(
        tmp_path / "numbers.json",
        *("--shape", "qwen3-0.6b", "--layers", 1, "--prompt", 4, "--gen", 2, "--batch", 2),
        *("--context", 500, "--kv-cache-type", "q80"),
    )
    assert values["cache_bytes_per_token"] == 500 * 2 * 8 * 128 * 34 / 32
    assert values["context_times_reading"] is not None
    assert 0 < values["decode_attention_fraction"] < 1


@pytest.mark.slow
def test_of_experts_those_that_are_chosen_count(tmp_path: Path) -> None:
    values = bench(
        tmp_path / "numbers.json", *("--shape", "qwen3-30b-a3b", "--layers", 1, "--prompt", 4, "--gen", 2)
    )
    attention, router = 2048 * (2 * 4096 + 2 * 512), 4 * 2048 * 128
    experts, head = 8 * 3 * 2048 * 768, 2048 * 151936
    wanted = (attention + experts + head) * 18 / 32 + router
    assert values["weight_bytes_per_token"] == pytest.approx(wanted, rel=0.001)


def test_what_travels_is_counted_for_each_token(tmp_path: Path) -> None:
    with worker_processes(1) as (worker,):
        values = bench(
            tmp_path / "numbers.json",
            *("--shape", "qwen3-0.6b", "--layers", 3, "--prompt", 6, "--gen", 3, "--context", 40),
            *("--workers", worker.address),
        )
    shape = SHAPES["qwen3-0.6b"]
    sums = 2 * 3 * shape.dim / 32 * 34  # two partial sums for each layer, to one other node
    for kind in ("prefill", "decode"):
        assert values[f"{kind}_sent_bytes_per_tok"] >= sums
        assert values[f"{kind}_recv_bytes_per_tok"] >= sums
        assert values[f"{kind}_sync_ms_per_tok"] > 0
    inputs = 4 * shape.dim
    assert values["decode_sent_bytes_per_tok"] <= sums + inputs + 1000


@pytest.mark.slow
def test_kernels() -> None:
    speeds = list(measure_kernels(Compute(1, supported_isas()[0]), long_enough_s=0.0))
    assert len(speeds) == n_kernels()
    assert len({(speed.kernel, speed.n_rows) for speed in speeds}) == n_kernels()
    for speed in speeds:
        assert speed.us > 0
        assert speed.gb_per_s > 0
        assert speed.fraction > 0
        assert (speed.gops > 0) == ("product" in speed.kernel or "attention" in speed.kernel)
