"""Granite: its four factors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dllama.errors import ModelFileError, UnsupportedModelError
from dllama.families import Keys, family_named
from dllama.model import Attention, ModelConfig

VALUES = {
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 2,
    "num_attention_heads": 32,
    "vocab_size": 49155,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5,
}


def read(**changes: Any) -> ModelConfig:
    return family_named("granite").read(Keys(VALUES | changes, Path("config.json")))


def test_a_factor_of_parts_is_one_of_the_stream() -> None:
    config = read(
        residual_multiplier=0.5, embedding_multiplier=12.0, logits_scaling=8.0, attention_multiplier=0.02
    )
    assert (config.embedding_scale, config.logit_scale) == (24.0, 0.125)
    assert config.norm_eps == pytest.approx(4e-5)
    mixer = config.kinds[0].mixer
    assert isinstance(mixer, Attention)
    assert mixer.scale == 0.02


@pytest.mark.parametrize(
    "name", ["residual_multiplier", "embedding_multiplier", "logits_scaling", "attention_multiplier"]
)
def test_factors_that_cannot_be(name: str) -> None:
    for value in (0, -1.0, 1e9):
        with pytest.raises(ModelFileError, match=f"{name} is"):
            read(**{name: value})


def test_what_would_be_missed_is_refused() -> None:
    with pytest.raises(UnsupportedModelError, match="mlp_bias is True"):
        read(mlp_bias=True)
    with pytest.raises(UnsupportedModelError, match="use_rope"):
        read(use_rope=False)
