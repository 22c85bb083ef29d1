"""Nodes on other devices: the same text from exact weights, and near predictions from quantised ones."""

from __future__ import annotations

import json
import re
from pathlib import Path

from support.processes import DEMO_MODEL, inference, run_dllama, run_well, worker_processes

EXACT = ("--weights-float-type", "f32", "--buffer-float-type", "f32")


def token_ids(path: Path, *arguments: object, workers: list[str] | None = None) -> list[int]:
    run_well(*inference(*EXACT, *arguments, "--report", path, workers=workers or [], steps=16))
    ids = json.loads(path.read_text())["token_ids"]
    path.unlink()
    return list(ids)


def test_nodes_on_any_device_give_the_ids_of_one_cpu(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    of_one = token_ids(path)
    with worker_processes(1, "--device", "reference") as workers:
        addresses = [worker.address for worker in workers]
        for device in ("cpu", "reference"):
            assert token_ids(path, "--device", device, workers=addresses) == of_one


def test_perplexity_says_what_the_arithmetic_of_the_cpu_loses(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("The quick brown fox jumps over the lazy dog, again and again, until the dog wakes up.")
    finished = run_well(
        "perplexity", "--model", DEMO_MODEL, "--file", text, "--weights-float-type", "q80",
        "--reference", DEMO_MODEL, "--reference-float-type", "q80", "--reference-device", "reference",
    )  # fmt: skip
    divergence = re.search(r"mean KL divergence: ([\d.]+)", finished.out)
    assert divergence is not None
    assert 0 < float(divergence[1]) < 0.006


def test_bench_is_about_the_cpu() -> None:
    finished = run_dllama("bench", "--layers", "1", "--device", "reference")
    assert finished.code == 2
    assert "leave --device out" in finished.error_line


def test_a_reference_device_needs_a_reference(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("one two three")
    finished = run_dllama("perplexity", "--file", text, "--reference-device", "reference")
    assert finished.code == 2
    assert "--reference-device is for --reference, which is not given" in finished.error_line
