"""Mixtures that choose as DeepSeek-V3 does: what configs leave unsaid, and what cannot be."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from dllama.errors import ModelFileError
from dllama.families import Keys, family_named
from dllama.model import Activation, Dense, Experts, Layer, ModelConfig, RopeStyle

GLM_4_5_AIR = {
    "hidden_size": 4096,
    "intermediate_size": 10944,
    "num_hidden_layers": 46,
    "num_attention_heads": 96,
    "vocab_size": 151552,
    "max_position_embeddings": 131072,
    "head_dim": 128,
}


def read(**changes: Any) -> ModelConfig:
    return family_named("glm4_moe").read(Keys(GLM_4_5_AIR | changes, Path("config.json")))


def test_what_is_left_unsaid_is_as_in_the_class() -> None:
    config = read()
    dense, mixture = config.kinds
    assert config.layer_kinds == (0,) + (1,) * 45
    assert config.norm_eps == 1e-5
    assert dense.feed_forward == Dense(ffn_dim=10944, activation=Activation.SILU)
    assert mixture.feed_forward == Experts(
        n_experts=128,
        top_k=8,
        expert_dim=1408,
        activation=Activation.SILU,
        renormalised=True,
        sigmoid=True,
        choice_bias=True,
        group_best=2,
        shared=Dense(ffn_dim=1408, activation=Activation.SILU),
    )
    rope = mixture.mixer.rope
    assert rope is not None
    assert (rope.style, rope.n_rotated) == (RopeStyle.HALVES, 64)


def test_what_is_said_counts() -> None:
    config = read(first_k_dense_replace=0, n_shared_experts=0, norm_topk_prob=False, n_group=8, topk_group=4)
    (layer,) = config.kinds
    experts = layer.feed_forward
    assert isinstance(experts, Experts)
    assert (experts.shared, experts.renormalised) == (None, False)
    assert (experts.n_groups, experts.top_groups, experts.group_best) == (8, 4, 2)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"first_k_dense_replace": 47}, "first_k_dense_replace is 47"),
        ({"n_group": 7}, "128 experts cannot be 7 groups"),
        ({"n_group": 0}, "128 experts cannot be 0 groups"),
        ({"n_group": 32, "topk_group": 1}, "1 of 32 groups are not enough for 8 experts"),
        ({"n_group": 128, "topk_group": 8}, "groups of 1 experts cannot be compared by 2"),
        ({"routed_scaling_factor": -1.0}, "scaled by -1.0"),
        ({"num_experts_per_tok": 129}, "129 of 128 experts"),
    ],
)
def test_what_cannot_be_is_told(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ModelFileError, match=words):
        read(**changes)


def test_a_bias_for_the_choice_is_of_sigmoids() -> None:
    experts = read().kinds[1].feed_forward
    assert isinstance(experts, Experts)
    of_softmax = dataclasses.replace(experts, sigmoid=False, group_best=1)
    assert "sigmoids only" in str(of_softmax.fault())
    assert dataclasses.replace(of_softmax, choice_bias=False).fault() is None


def test_such_layers_travel() -> None:
    for layer in read(n_group=8, topk_group=4).kinds:
        assert Layer.from_json(json.loads(json.dumps(layer.to_json()))) == layer
