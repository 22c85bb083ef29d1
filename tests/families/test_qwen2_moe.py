"""Qwen 2's mixtures: layers with a window, and widths that older GGUF files do not say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dllama.families import Keys, family_named
from dllama.model import Attention, Dense, Experts, ModelConfig

VALUES = {
    "hidden_size": 2048,
    "intermediate_size": 5632,
    "num_hidden_layers": 5,
    "num_attention_heads": 16,
    "vocab_size": 151936,
    "max_position_embeddings": 8192,
}


def read(**changes: Any) -> ModelConfig:
    return family_named("qwen2_moe").read(Keys(VALUES | changes, Path("config.json")))


@pytest.mark.parametrize(
    ("changes", "windows"),
    [
        ({}, [None] * 5),
        ({"use_sliding_window": True, "max_window_layers": 3}, [4096, None, 4096, None, None]),
    ],
)
def test_windows(changes: dict[str, Any], windows: list[int | None]) -> None:
    config = read(**changes)
    mixers = [config.layer(index).mixer for index in range(5)]
    assert [mixer.window for mixer in mixers if isinstance(mixer, Attention)] == windows


def test_every_row_goes_through_one_expert_more() -> None:
    config = read()
    experts = config.kinds[0].feed_forward
    assert isinstance(experts, Experts)
    assert isinstance(experts.shared, Dense)
    assert (experts.n_experts, experts.top_k, experts.expert_dim, experts.renormalised) == (
        60,
        4,
        1408,
        False,
    )
    assert (experts.shared.ffn_dim, experts.shared.gated) == (5632, True)


def test_widths_that_a_gguf_file_leaves_out() -> None:
    names = family_named("qwen2_moe").gguf
    assert names is not None
    values = {"intermediate_size": 5632, "num_experts_per_tok": 4}
    assert names.derived(values) == {
        "moe_intermediate_size": 1408,
        "shared_expert_intermediate_size": 5632,
    }
    assert names.derived(values | {"moe_intermediate_size": 7, "shared_expert_intermediate_size": 8}) == {}
