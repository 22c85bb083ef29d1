"""Matrices that share an input may differ in type: as in files whose values are kept at more bits than keys."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

from dllama.checkpoint import open_checkpoint
from dllama.dtypes import ElementType
from dllama.formats.gguf import GgmlType
from support.gguf_model import write_model
from support.local_cluster import LocalCluster
from support.sequences import CachedSequence, Run, Steps, Want

GOLDENS = Path(__file__).resolve().parents[2] / "goldens"
KINDS = [
    GgmlType.Q4_1, GgmlType.Q8_0, GgmlType.Q5_0, GgmlType.F16, GgmlType.Q4_0, GgmlType.Q5_1, GgmlType.BF16,
    GgmlType.F32,
]  # fmt: skip
PARTS = ("q", "k", "v", "o", "gate", "up", "down", "head")


def kinds_from(start: int) -> dict[str, GgmlType]:
    return dict(zip(PARTS, itertools.islice(itertools.cycle(KINDS), start, None), strict=False))


def mixed_model(path: Path, start: int) -> Path:
    kinds = kinds_from(start)
    return write_model(
        GOLDENS / "llama-gqa", path, lambda name: kinds.get(name.rpartition(".")[2], GgmlType.Q4_0)
    )


def logits_of(model: Path, shares: tuple[float, ...], weight_type: ElementType | None) -> np.ndarray:
    golden = np.load(GOLDENS / "llama-gqa" / "golden.npz")
    prompt = golden["prompt_ids"].tolist()
    with LocalCluster(model, shares=shares, weight_type=weight_type) as cluster:
        steps = Steps(cluster)
        steps.step([Run(CachedSequence(), prompt, Want.ALL)])
        return steps.whole_logits()[: len(prompt)].copy()


@pytest.mark.parametrize("start", range(len(KINDS)))
def test_each_tensor_has_the_type_of_the_file(start: int, tmp_path: Path) -> None:
    model = open_checkpoint(mixed_model(tmp_path / "model.gguf", start))
    for part, kind in kinds_from(start).items():
        name = part if part == "head" else f"layers.1.{part}"
        wanted = ElementType.F16 if kind is GgmlType.BF16 else kind.element_type
        assert model.tensors[name].dtype is wanted
        assert model.is_stored(name) == (kind is not GgmlType.BF16)


@pytest.mark.parametrize("shares", [(1.0,), (1.0, 1.0, 1.0)], ids=len)
@pytest.mark.parametrize("start", range(0, len(KINDS), 3))
def test_logits_differ_by_the_rounding_of_activations_only(
    start: int, shares: tuple[float, ...], tmp_path: Path
) -> None:
    """From those with the same weights in float32. Blocks of a product's input are off by at most half a step, largest
    magnitude / 127 / 2, at random: one step for each of the four inputs of a layer's products, and for the head's,
    covers it and what comes after it makes of it (tests/model/test_laws.py)."""
    path = mixed_model(tmp_path / "model.gguf", start)
    exact = logits_of(path, (1.0,), ElementType.F32)
    got = logits_of(path, shares, None)
    relative = np.linalg.norm(got - exact) / np.linalg.norm(exact)
    assert 0 < relative <= (2 * 4 + 1) / 127
