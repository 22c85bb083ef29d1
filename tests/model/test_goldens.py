"""Logits and greedy ids of every family against Hugging Face transformers (tools/make_goldens.py)."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from dllama.errors import UsageError
from dllama.kernels import Cpu, Reference
from support.local_cluster import GOLDENS, LocalCluster
from support.sequences import CachedSequence, Run, Steps, Want

NAMES = sorted(path.name for path in GOLDENS.iterdir() if path.is_dir())


def n_heads_of(name: str) -> int:
    config = json.loads((GOLDENS / name / "config.json").read_text())
    return int(config["num_attention_heads"])


def prompt_logits(
    cluster: LocalCluster, ids: Sequence[int], chunk: int
) -> tuple[Steps, CachedSequence, NDArray[np.float32]]:
    engine, sequence = Steps(cluster), CachedSequence()
    parts = []
    for first in range(0, len(ids), chunk):
        engine.step([Run(sequence, ids[first : first + chunk], Want.ALL)])
        parts.append(engine.whole_logits())
    return engine, sequence, np.concatenate(parts)


def greedy_ids(engine: Steps, sequence: CachedSequence, first: int, n: int) -> list[int]:
    ids = [first]
    while len(ids) < n:
        ids.append(int(engine.step([Run(sequence, [ids[-1]])]).ids[0, 0]))
    return ids


def assert_equals_transformers(cluster: LocalCluster, name: str) -> None:
    golden = np.load(GOLDENS / name / "golden.npz")
    prompt = golden["prompt_ids"].tolist()
    engine, sequence, logits = prompt_logits(cluster, prompt, cluster.max_rows)
    difference = np.abs(logits - golden["logits"])
    worst = np.unravel_index(np.argmax(difference), difference.shape)
    assert difference.max() <= 1e-4 * np.abs(golden["logits"]).max(), (worst, difference.max())
    ids = greedy_ids(engine, sequence, int(np.argmax(logits[-1])), len(golden["greedy_ids"]))
    assert ids == golden["greedy_ids"].tolist()


@pytest.mark.parametrize("shares", [(1,), (1, 1), (1, 1, 1), (1, 1, 1, 1, 1), (1,) * 8, (3, 1, 1)], ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_equals_transformers(name: str, shares: Sequence[float]) -> None:
    n_heads = n_heads_of(name)
    if len(shares) > n_heads:
        with pytest.raises(UsageError, match=f"can be split over 1 to {n_heads} nodes"):
            LocalCluster(GOLDENS / name, shares=shares)
        return
    with LocalCluster(GOLDENS / name, shares=shares) as cluster:
        assert_equals_transformers(cluster, name)


@pytest.mark.parametrize(
    ("name", "devices"),
    [
        (name, devices)
        for name in NAMES
        for devices in ("r", "rr", "rrr", "cr", "rcr")
        if len(devices) <= n_heads_of(name)
    ],
)
def test_equals_transformers_on_any_device(name: str, devices: str) -> None:
    """`devices`: of each rank, r for the reference and c for the cpu."""
    of_ranks = [Reference() if letter == "r" else Cpu(1) for letter in devices]
    with LocalCluster(GOLDENS / name, shares=(1,) * len(devices), devices=of_ranks) as cluster:
        assert_equals_transformers(cluster, name)
