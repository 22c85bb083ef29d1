"""Attention over latents: what configs leave unsaid, and what cannot be."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest

from dllama.checkpoint.hf.config import model_from_hf
from dllama.dtypes import ElementType
from dllama.errors import ModelFileError, UnsupportedModelError
from dllama.families import Keys, family_named
from dllama.model import (
    Dense,
    Experts,
    LatentAttention,
    Layer,
    ModelConfig,
    ModelSpec,
    RopeStyle,
    context_bytes,
)
from dllama.sharding import plan_spans

DEEPSEEK_V3 = {
    "hidden_size": 7168,
    "intermediate_size": 18432,
    "num_hidden_layers": 61,
    "num_attention_heads": 128,
    "num_key_value_heads": 128,
    "vocab_size": 129280,
    "max_position_embeddings": 163840,
    "rope_scaling": {
        "type": "yarn",
        "factor": 40,
        "original_max_position_embeddings": 4096,
        "beta_fast": 32,
        "beta_slow": 1,
        "mscale": 1.0,
        "mscale_all_dim": 1.0,
    },
}
GLM_4_7_FLASH = {
    "hidden_size": 2048,
    "intermediate_size": 10240,
    "num_hidden_layers": 47,
    "num_attention_heads": 20,
    "vocab_size": 154880,
}


def read(**changes: Any) -> ModelConfig:
    return family_named("deepseek_v3").read(Keys(DEEPSEEK_V3 | changes, Path("config.json")))


def glm(**changes: Any) -> ModelConfig:
    return family_named("glm4_moe_lite").read(Keys(GLM_4_7_FLASH | changes, Path("config.json")))


def test_deepseek_v3_is_as_in_its_class() -> None:
    config = read()
    dense, mixture = config.kinds
    assert config.layer_kinds == (0,) * 3 + (1,) * 58
    assert (config.max_seq_len, config.norm_eps) == (163840, 1e-6)
    mixer = mixture.mixer
    assert isinstance(mixer, LatentAttention)
    assert (mixer.n_heads, mixer.q_rank, mixer.kv_rank) == (128, 1536, 512)
    assert (mixer.nope_dim, mixer.rope_dim, mixer.value_dim) == (128, 64, 128)
    sharpening = 0.1 * math.log(40) + 1
    assert mixer.scale == pytest.approx(192**-0.5 * sharpening**2)
    assert mixer.rope.style is RopeStyle.ADJACENT
    assert mixer.rope.scaling is not None
    assert mixer.rope.scaling.attention_factor == 1.0  # type: ignore[union-attr]
    experts = mixture.feed_forward
    assert isinstance(experts, Experts)
    assert (experts.n_experts, experts.top_k, experts.n_groups, experts.top_groups) == (256, 8, 8, 4)
    assert (experts.scale, experts.sigmoid, experts.choice_bias) == (2.5, True, True)
    assert isinstance(dense.feed_forward, Dense)


def test_glm_4_7_flash_is_as_in_its_class() -> None:
    config = glm()
    assert config.layer_kinds == (0,) + (1,) * 46
    assert config.norm_eps == 1e-5
    mixer = config.kinds[1].mixer
    assert isinstance(mixer, LatentAttention)
    assert (mixer.q_rank, mixer.nope_dim, mixer.value_dim) == (768, 192, 256)
    assert mixer.scale == 256**-0.5


def test_layers_of_glm_may_be_listed() -> None:
    kinds = ["dense", "dense"] + ["sparse"] * 45
    assert glm(mlp_layer_types=kinds).layer_kinds == (0,) * 2 + (1,) * 45
    with pytest.raises(ModelFileError, match="mlp_layer_types must list dense or sparse"):
        glm(mlp_layer_types=["dense"])


@pytest.mark.parametrize("n_ranks", [1, 8])
def test_a_position_is_1152_bytes_on_every_rank(n_ranks: int) -> None:
    model = ModelSpec.uniform(read(num_hidden_layers=4), ElementType.Q40)
    for spans in plan_spans(model.axes, [1.0] * n_ranks).ranks:
        assert context_bytes(model.config, spans, ElementType.F16, 1000) == 4 * 1000 * 1152


def test_kimi_k2_is_one_with_other_numbers() -> None:
    values = DEEPSEEK_V3 | {"model_type": "kimi_k2", "num_attention_heads": 64, "n_group": 1, "topk_group": 1}
    for model in (values, {"model_type": "kimi_k25", "text_config": values}):
        config = model_from_hf(model, Path("config.json")).config
        assert config.family == "deepseek_v3"
        mixer = config.kinds[0].mixer
        assert isinstance(mixer, LatentAttention)
        assert mixer.n_heads == 64


def test_a_query_needs_no_latent() -> None:
    mixer = read(q_lora_rank=None).kinds[0].mixer
    assert isinstance(mixer, LatentAttention)
    assert mixer.q_rank is None


def test_such_layers_travel() -> None:
    for layer in read().kinds:
        assert Layer.from_json(json.loads(json.dumps(layer.to_json()))) == layer


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"qk_rope_head_dim": 63}, "qk_rope_head_dim is 63"),
        ({"kv_lora_rank": 0}, "kv_lora_rank is 0"),
        ({"v_head_dim": -1}, "v_head_dim is -1"),
        ({"q_lora_rank": 1 << 40}, "q_lora_rank is"),
        ({"qk_nope_head_dim": -64}, "heads of -64 . 64 elements"),
    ],
)
def test_what_cannot_be_is_told(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ModelFileError, match=words):
        read(**changes)


def test_what_would_be_missed_is_refused() -> None:
    assert read(attention_bias=False) == read()
    with pytest.raises(UnsupportedModelError, match="attention_bias is True"):
        read(attention_bias=True)


def test_a_scale_is_above_zero() -> None:
    mixer = read().kinds[0].mixer
    assert isinstance(mixer, LatentAttention)
    assert "scale of attention" in str(dataclasses.replace(mixer, scale=0.0).fault())
