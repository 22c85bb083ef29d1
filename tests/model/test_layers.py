"""What kinds of layers may have, each beside plain NumPy, on one rank and on several."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from tests.model.test_laws import all_logits, assert_same_bits

from dllama.dtypes import ElementType
from dllama.model import (
    Activation,
    Attention,
    DeltaNet,
    Dense,
    Experts,
    Layer,
    ModelConfig,
    ModelSpec,
    NormKind,
    Rope,
    RopeStyle,
    TensorTypes,
)
from support.local_cluster import LocalCluster
from support.random_model import logits_of, random_model
from support.sequences import Steps

ROPE = Rope(theta=1e4, style=RopeStyle.HALVES)
ATTENTION = Attention(n_heads=4, n_kv_heads=2, head_dim=32, rope=ROPE)
DENSE = Dense(ffn_dim=96, activation=Activation.SILU)
LAYER = Layer(mixer=ATTENTION, feed_forward=DENSE)
IDS = [5, 9, 20, 31, 77, 4, 50, 63, 12, 99, 81, 7, 8, 45, 30, 16, 3, 20, 55, 88, 9, 10, 11]


def mixer(**changes: object) -> Layer:
    return dataclasses.replace(LAYER, mixer=dataclasses.replace(ATTENTION, **changes))  # type: ignore[arg-type]


KINDS: dict[str, tuple[Layer, ...]] = {
    "plain": (LAYER, LAYER),
    "gelu": (
        dataclasses.replace(LAYER, feed_forward=dataclasses.replace(DENSE, activation=Activation.GELU)),
    ),
    "biases": (mixer(qkv_bias=True, o_bias=True), LAYER),
    "norms of heads": (mixer(qk_norm=True), LAYER),
    "a scale of attention": (mixer(scale=0.05), mixer(scale=0.6)),
    "windows in some layers": (mixer(window=5), LAYER, mixer(window=9)),
    "two ropes": (mixer(rope=Rope(theta=50.0, style=RopeStyle.ADJACENT)), LAYER),
    "no rope": (mixer(rope=None), LAYER),
    "a rope of some elements": (
        mixer(rope=Rope(theta=1e4, style=RopeStyle.ADJACENT, n_rotated=8)),
        LAYER,
    ),
    "other heads in some layers": (mixer(head_dim=64, n_kv_heads=1), LAYER, mixer(n_heads=8)),
    "other columns in some layers": (
        dataclasses.replace(LAYER, feed_forward=dataclasses.replace(DENSE, ffn_dim=160)),
        LAYER,
    ),
    "a rope of some elements in halves": (
        mixer(rope=Rope(theta=1e4, style=RopeStyle.HALVES, n_rotated=8), scale=0.3),
        LAYER,
    ),
    "soft caps of attention": (mixer(soft_cap=0.8), mixer(soft_cap=5.0, window=5)),
    "norms with a mean and a bias": (dataclasses.replace(LAYER, norm=NormKind.LAYER),) * 2,
    "such norms in some layers": (dataclasses.replace(LAYER, norm=NormKind.LAYER), LAYER),
    "norms after": (dataclasses.replace(LAYER, norms_after=True),) * 2,
    "norms after in some layers": (LAYER, dataclasses.replace(LAYER, norms_after=True), LAYER),
}


NET = DeltaNet(n_key_heads=2, n_value_heads=6, key_dim=12, value_dim=20, conv_width=4)
KINDS |= {
    "delta nets": (dataclasses.replace(LAYER, mixer=NET), LAYER, dataclasses.replace(LAYER, mixer=NET)),
    "delta nets alone": (dataclasses.replace(LAYER, mixer=dataclasses.replace(NET, conv_width=1)),),
    "gated attention": (mixer(gated=True, qk_norm=True), mixer(gated=True)),
    "a gated feed-forward": (
        dataclasses.replace(LAYER, feed_forward=dataclasses.replace(DENSE, gated=True)),
        LAYER,
    ),
}


def config_of(layers: Sequence[Layer], **changes: float) -> ModelConfig:
    numbers = {"dim": 64, "vocab_size": 128, "max_seq_len": 64, "norm_eps": 1e-5} | changes
    return ModelConfig.of_layers(layers, family="llama", final_norm=layers[0].norm, **numbers)


def assert_near(got: np.ndarray, wanted: np.ndarray, bound: float) -> None:
    error = np.abs(got - wanted).max(axis=1) / np.abs(wanted).max(axis=1)
    assert error.max() <= bound, f"row {error.argmax()} of {len(error)}: {error.max()}"


@pytest.mark.parametrize("shares", [(1,), (2, 1, 1)], ids=str)
@pytest.mark.parametrize("name", KINDS)
def test_layers_compute_what_they_say(name: str, shares: Sequence[float]) -> None:
    model = ModelSpec.uniform(config_of(KINDS[name]), ElementType.F32)
    checkpoint, source = random_model(model)
    wanted = logits_of(model.config, source, IDS)
    with LocalCluster(checkpoint, shares=shares) as cluster:
        engine = Steps(cluster)
        whole = all_logits(engine, IDS, [len(IDS)])
        assert_near(whole, wanted, 1e-4)
        assert_same_bits(all_logits(engine, IDS, [7, 1]), whole)


@pytest.mark.parametrize("shares", [(1,), (1, 1)], ids=str)
def test_embeddings_are_scaled(shares: Sequence[float]) -> None:
    model = ModelSpec.uniform(config_of(KINDS["plain"], embedding_scale=6.5), ElementType.F32)
    checkpoint, source = random_model(model)
    with LocalCluster(checkpoint, shares=shares) as cluster:
        assert_near(all_logits(Steps(cluster), IDS, [9]), logits_of(model.config, source, IDS), 1e-4)


@pytest.mark.parametrize("shares", [(1,), (1, 1)], ids=str)
@pytest.mark.parametrize(
    "changes",
    [{"logit_soft_cap": 2.0}, {"logit_scale": 0.125}, {"logit_scale": 3.0, "logit_soft_cap": 4.0}],
    ids=str,
)
def test_logits_are_scaled_and_capped(shares: Sequence[float], changes: dict[str, float]) -> None:
    model = ModelSpec.uniform(config_of(KINDS["plain"], **changes), ElementType.F32)
    checkpoint, source = random_model(model)
    with LocalCluster(checkpoint, shares=shares) as cluster:
        assert_near(all_logits(Steps(cluster), IDS, [9]), logits_of(model.config, source, IDS), 1e-4)


@pytest.mark.parametrize(
    "name",
    ["norms after", "norms after in some layers", "norms with a mean and a bias"],
)
def test_sums_of_blocks_are_normed_too(name: str) -> None:
    """Sums that travel as Q80, in any way."""
    model = ModelSpec.uniform(config_of(KINDS[name]), ElementType.F32)
    checkpoint, source = random_model(model)
    with LocalCluster(checkpoint, shares=(1, 1), wire=ElementType.Q80) as cluster:
        engine = Steps(cluster)
        whole = all_logits(engine, IDS, [len(IDS)])
        n_sums = 2 * model.config.n_layers
        assert_near(whole, logits_of(model.config, source, IDS), n_sums * 3**0.5 / 127)
        assert_same_bits(all_logits(engine, IDS, [1]), whole)


@pytest.mark.parametrize(
    "changes",
    [
        {"norms_after": True},
        {
            "feed_forward": Experts(
                n_experts=4, top_k=2, expert_dim=32, activation=Activation.SILU, renormalised=True
            )
        },
    ],
    ids=["norms after", "experts"],
)
def test_where_norms_with_a_mean_cannot_be(changes: dict[str, Any]) -> None:
    layer = dataclasses.replace(LAYER, norm=NormKind.LAYER)
    assert layer.fault() is None
    assert "a LayerNorm" in str(dataclasses.replace(layer, **changes).fault())


def test_norms_travel_with_the_model() -> None:
    model = ModelSpec.uniform(config_of(KINDS["such norms in some layers"]), ElementType.F32)
    read = ModelSpec.from_json(json.loads(json.dumps(model.to_json())))
    assert read == model
    assert read.config.final_norm is NormKind.LAYER


MIXTURES: dict[str, dict[str, ElementType]] = {
    "value of another type": {"v": ElementType.F16},
    "key of another type": {"k": ElementType.Q80},
    "query, key and value each of their own": {
        "q": ElementType.F32,
        "k": ElementType.F16,
        "v": ElementType.Q80,
    },
    "up of another type": {"up": ElementType.Q80},
    "gate of floats": {"gate": ElementType.F16},
    "down of floats": {"down": ElementType.F32, "o": ElementType.F16},
    "head of another type": {"head": ElementType.Q80},
}


@pytest.mark.parametrize("shares", [(1,), (1, 1)], ids=str)
@pytest.mark.parametrize("name", MIXTURES)
def test_types_may_be_mixed(name: str, shares: Sequence[float]) -> None:
    """Every other layer has the types of the mixture in place of q40."""
    config = config_of(KINDS["plain"])
    usual = ModelSpec.uniform(config, ElementType.Q40).types
    changes = MIXTURES[name]
    layer = {name: changes.get(name, dtype) for name, dtype in usual.kinds[0].items()}
    outer = {"head": changes.get("head", usual.outer["head"])}
    model = ModelSpec(config, TensorTypes.of_layers(outer, [usual.kinds[0], layer]))
    checkpoint, source = random_model(model)
    with LocalCluster(checkpoint, shares=shares) as cluster:
        engine = Steps(cluster)
        whole = all_logits(engine, IDS, [len(IDS)])
        assert_same_bits(all_logits(engine, IDS, [3, 1, 8]), whole)
    # Inputs of products are rounded to 1/254 of a block's largest: four times in a layer, and before the head.
    n_products = 4 * config.n_layers + 1
    assert_near(whole, logits_of(config, source, IDS), n_products * 3**0.5 / 127)
