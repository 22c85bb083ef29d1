"""Ranks on other devices with quantised weights: near predictions, and the same bits of the residual stream on all."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from dllama.dtypes import ElementType
from dllama.kernels import Cpu, Reference
from dllama.model import Transformer
from support.local_cluster import LocalCluster
from support.processes import DEMO_MODEL
from support.sequences import CachedSequence, Run, Steps, Want

IDS = np.random.default_rng(5).integers(3, 1000, 60).tolist()
MEAN_DIVERGENCE = 0.006
"""Kullback-Leibler, from float32 arithmetic on the same weights: what inputs of 8 bits may cost."""


def predictions(devices: str, weight_type: ElementType) -> NDArray[np.float64]:
    """[T, V]: log-probabilities of what follows each of the tokens. `devices` of the ranks: r for the reference."""
    of_ranks = [Reference() if letter == "r" else Cpu(1) for letter in devices]
    wire = ElementType.Q80 if len(devices) > 1 else ElementType.F32
    with LocalCluster(
        Path(DEMO_MODEL), shares=(1,) * len(devices), weight_type=weight_type, wire=wire, devices=of_ranks
    ) as cluster:
        steps = Steps(cluster)
        steps.step([Run(CachedSequence(), IDS, Want.ALL)])
        logits = steps.whole_logits().astype(np.float64)
        first, *others = (residual(transformer) for transformer in cluster._transformers)
        for other in others:
            np.testing.assert_array_equal(other, first)
    return logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)


def residual(transformer: Transformer) -> NDArray[np.float32]:
    """[T, D] after the last layer."""
    view = transformer._device.view(transformer._x)
    view.pull()
    return view.array[: len(IDS)]


@pytest.mark.parametrize("weight_type", [ElementType.Q40, ElementType.Q80], ids=str)
def test_predictions_are_near_those_of_the_reference(weight_type: ElementType) -> None:
    exact = predictions("r", weight_type)
    for devices in ("c", "cr", "rc", "rcr"):
        got = predictions(devices, weight_type)
        divergence = (np.exp(exact) * (exact - got)).sum(axis=1).mean()
        assert 0 < divergence < MEAN_DIVERGENCE, devices
