"""Ministral 3: how long texts may be, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dllama.errors import UnsupportedModelError
from dllama.families import Keys, family_named
from dllama.model import Attention, ModelConfig, YarnScaling

VALUES = {
    "hidden_size": 3072,
    "intermediate_size": 9216,
    "num_hidden_layers": 2,
    "num_attention_heads": 32,
    "vocab_size": 131072,
}


def read(**changes: Any) -> ModelConfig:
    return family_named("ministral3").read(Keys(VALUES | changes, Path("config.json")))


def test_texts_are_as_long_as_queries_stay_as_they_are() -> None:
    config = read()
    mixer = config.kinds[0].mixer
    assert isinstance(mixer, Attention)
    assert mixer.rope is not None
    assert isinstance(mixer.rope.scaling, YarnScaling)
    assert (mixer.rope.scaling.factor, mixer.rope.scaling.attention_factor) == (16, 1)
    assert config.max_seq_len == 16384


def test_without_that_factor_they_are_as_long_as_yarn_makes_them() -> None:
    rope = {"rope_type": "yarn", "factor": 16.0, "original_max_position_embeddings": 16384}
    assert read(rope_parameters=rope).max_seq_len == 262144


def test_that_factor_beside_another_rope_is_refused() -> None:
    with pytest.raises(UnsupportedModelError, match="llama_4_scaling_beta"):
        read(rope_parameters={"rope_type": "default", "llama_4_scaling_beta": 0.1})
