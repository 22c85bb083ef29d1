"""Ranks on other devices: near predictions with quantised weights, and the same bits of the residual stream on all."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from dllama.dtypes import ElementType
from dllama.kernels import Cpu, Reference, supported_isas
from dllama.model import (
    Activation,
    Attention,
    Dense,
    Layer,
    ModelConfig,
    ModelSpec,
    Rope,
    RopeStyle,
)
from support.local_cluster import LocalCluster
from support.processes import DEMO_MODEL
from support.random_model import random_model
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
        assert_residuals_agree(cluster)
    return logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)


def assert_residuals_agree(cluster: LocalCluster) -> None:
    """Of all ranks, after the last layer."""
    views = [transformer._device.view(transformer._x) for transformer in cluster._transformers]
    for view in views:
        view.pull()
        np.testing.assert_array_equal(view.array[: len(IDS)], views[0].array[: len(IDS)])


@pytest.mark.parametrize("weight_type", [ElementType.Q40, ElementType.Q80], ids=str)
def test_predictions_are_near_those_of_the_reference(weight_type: ElementType) -> None:
    exact = predictions("r", weight_type)
    for devices in ("c", "cr", "rc", "rcr"):
        got = predictions(devices, weight_type)
        divergence = (np.exp(exact) * (exact - got)).sum(axis=1).mean()
        assert 0 < divergence < MEAN_DIVERGENCE, devices


@pytest.mark.parametrize("wire", [ElementType.F32, ElementType.Q80], ids=str)
def test_sums_that_are_normed_have_the_same_bits(wire: ElementType) -> None:
    layer = Layer(
        mixer=Attention(n_heads=4, n_kv_heads=2, head_dim=32, rope=Rope(theta=1e4, style=RopeStyle.HALVES)),
        feed_forward=Dense(ffn_dim=96, activation=Activation.GELU),
        norms_after=True,
    )
    config = ModelConfig.of_layers(
        [layer, layer], family="llama", dim=96, vocab_size=128, max_seq_len=64, norm_eps=1e-5
    )
    checkpoint, _ = random_model(ModelSpec.uniform(config, ElementType.F32))
    devices = [Cpu(1, supported_isas()[0]), Reference(), Cpu(1, supported_isas()[-1])]
    with LocalCluster(checkpoint, shares=(2, 1, 1), wire=wire, devices=devices) as cluster:
        Steps(cluster).step([Run(CachedSequence(), [token % 128 for token in IDS], Want.ALL)])
        assert_residuals_agree(cluster)
