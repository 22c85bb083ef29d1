"""Gemma 2: what its config leaves unsaid, and what of its class is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dllama.errors import ModelFileError, UnsupportedModelError
from dllama.families import Keys, family_named
from dllama.model import Attention, ModelConfig

VALUES = {
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "num_hidden_layers": 3,
    "num_attention_heads": 8,
    "vocab_size": 256000,
    "max_position_embeddings": 8192,
}


def read(**changes: Any) -> ModelConfig:
    return family_named("gemma2").read(Keys(VALUES | changes, Path("config.json")))


def mixers(config: ModelConfig) -> list[Attention]:
    found = [config.layer(index).mixer for index in range(config.n_layers)]
    return [mixer for mixer in found if isinstance(mixer, Attention)]


def test_what_is_left_unsaid_is_as_in_the_class() -> None:
    config = read()
    assert [mixer.window for mixer in mixers(config)] == [4096, None, 4096]
    assert all((mixer.soft_cap, mixer.scale, mixer.head_dim) == (50, None, 256) for mixer in mixers(config))
    assert (config.logit_soft_cap, config.embedding_scale, config.norm_eps) == (30, 48, 1e-6)


def test_no_cap_is_one_that_is_null() -> None:
    config = read(attn_logit_softcapping=None, final_logit_softcapping=None, query_pre_attn_scalar=64)
    assert config.logit_soft_cap is None
    assert all((mixer.soft_cap, mixer.scale) == (None, 0.125) for mixer in mixers(config))


def test_what_cannot_be_or_would_be_missed_is_named() -> None:
    for name in ("attention_bias", "use_bidirectional_attention"):
        with pytest.raises(UnsupportedModelError, match=f"{name} is True"):
            read(**{name: True})
    for name in ("attn_logit_softcapping", "final_logit_softcapping", "query_pre_attn_scalar"):
        with pytest.raises(ModelFileError, match=f"{name} is -1"):
            read(**{name: -1})
