"""StableLM: what its config leaves unsaid, and what of its class is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dllama.errors import UnsupportedModelError
from dllama.families import Keys, family_named
from dllama.model import ModelConfig, NormKind

THE_3B = {
    "hidden_size": 2560,
    "intermediate_size": 6912,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "vocab_size": 50304,
    "max_position_embeddings": 4096,
}


def read(**changes: Any) -> ModelConfig:
    return family_named("stablelm").read(Keys(THE_3B | changes, Path("config.json")))


def test_what_is_left_unsaid_is_as_in_the_class() -> None:
    config = read()
    (layer,) = config.kinds
    assert (layer.norm, config.final_norm, config.norm_eps) == (NormKind.LAYER, NormKind.LAYER, 1e-5)
    assert (layer.mixer.n_kv_heads, layer.mixer.head_dim, layer.mixer.qkv_bias) == (32, 80, False)
    assert layer.mixer.rope is not None
    assert (layer.mixer.rope.n_rotated, layer.mixer.rope.theta) == (20, 1e4)


def test_biases_are_there_where_the_config_says_so() -> None:
    assert read(use_qkv_bias=True).kinds[0].mixer.qkv_bias


@pytest.mark.parametrize("key", ["use_parallel_residual", "qk_layernorm"])
def test_what_would_be_missed_is_refused(key: str) -> None:
    assert read(**{key: False}) == read()
    with pytest.raises(UnsupportedModelError, match=f"{key} is True"):
        read(**{key: True})
