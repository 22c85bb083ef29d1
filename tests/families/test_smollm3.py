"""SmolLM3: which layers have a rope and which a window, and what of its class is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dllama.errors import ModelFileError, UnsupportedModelError
from dllama.families import Keys, family_named
from dllama.model import Attention, ModelConfig

VALUES = {
    "hidden_size": 2048,
    "intermediate_size": 11008,
    "num_hidden_layers": 6,
    "num_attention_heads": 16,
    "vocab_size": 128256,
    "max_position_embeddings": 65536,
}


def read(**changes: Any) -> ModelConfig:
    return family_named("smollm3").read(Keys(VALUES | changes, Path("config.json")))


def mixers(config: ModelConfig) -> list[Attention]:
    found = [config.layer(index).mixer for index in range(config.n_layers)]
    assert all(isinstance(mixer, Attention) for mixer in found)
    return found  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("changes", "without"),
    [
        ({}, {3}),
        ({"no_rope_layer_interval": 2}, {1, 3, 5}),
        ({"no_rope_layers": [1, 0, 1, 1, 1, 0]}, {1, 5}),
    ],
)
def test_layers_without_a_rope(changes: dict[str, Any], without: set[int]) -> None:
    found = mixers(read(**changes))
    assert {index for index, mixer in enumerate(found) if mixer.rope is None} == without
    assert all(mixer.window is None for mixer in found)


def test_these_alone_have_a_window_where_windows_are_wanted() -> None:
    found = mixers(read(use_sliding_window=True, sliding_window=512))
    assert [mixer.window for mixer in found] == [None, None, None, 512, None, None]


def test_what_cannot_be_is_named() -> None:
    with pytest.raises(UnsupportedModelError, match="mlp_bias is True"):
        read(mlp_bias=True)
    for wrong in ([1, 0], "all", [2] * 6):
        with pytest.raises(ModelFileError, match="no_rope_layers must list 0 or 1 for each of 6 layers"):
            read(no_rope_layers=wrong)
    with pytest.raises(ModelFileError, match="no_rope_layer_interval is 0"):
        read(no_rope_layer_interval=0)
