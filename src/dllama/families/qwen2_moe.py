"""Qwen 2's mixtures of experts (Yang et al. 2024, arXiv:2407.10671): Qwen 2 with experts, one of which all rows go
through, times a sigmoid of the row.

Keys and defaults: Qwen2MoeConfig of transformers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dllama.families import reading
from dllama.families.family import Family
from dllama.families.gguf_names import GgufKey, GgufNames
from dllama.families.keys import Keys
from dllama.families.qwen3_moe import feed_forwards
from dllama.families.reading import FULL, SLIDING
from dllama.model import Dense, Layer, ModelConfig, RopeStyle


def _read(keys: Keys) -> ModelConfig:
    keys = keys.with_defaults(
        num_key_value_heads=16,
        sliding_window=4096,
        max_window_layers=28,
        num_experts=60,
        num_experts_per_tok=4,
        moe_intermediate_size=1408,
        shared_expert_intermediate_size=5632,
    )
    has_bias = keys.flag("qkv_bias", True)
    layers = [
        Layer(
            mixer=reading.attention(keys, RopeStyle.HALVES, window=window, qkv_bias=has_bias),
            feed_forward=each,
        )
        for window, each in zip(_windows(keys), feed_forwards(keys, shared_expert(keys)), strict=True)
    ]
    return reading.model(keys, "qwen2_moe", layers)


def shared_expert(keys: Keys) -> Dense:
    """Beside the others, with a gate."""
    width = keys.whole("shared_expert_intermediate_size")
    return Dense(ffn_dim=width, activation=reading.activation(keys), gated=True)


def _windows(keys: Keys) -> list[int | None]:
    """That of each layer: as listed, or every second one below `max_window_layers`, where there are any."""
    n, size = reading.n_layers(keys), reading.window(keys) if keys.flag("use_sliding_window") else None
    kinds = reading.layer_types(keys, FULL, SLIDING)
    if kinds is None:
        n_first = keys.whole("max_window_layers")
        kinds = [SLIDING if layer % 2 == 0 and layer < n_first else FULL for layer in range(n)]
    return [size if kind == SLIDING else None for kind in kinds]


def _derived(values: Mapping[str, Any]) -> dict[str, Any]:
    """Widths, which older files do not say."""
    width = values["intermediate_size"]
    usual = {
        "moe_intermediate_size": width // max(values["num_experts_per_tok"], 1),
        "shared_expert_intermediate_size": width,
    }
    return {name: value for name, value in usual.items() if name not in values}


QWEN2_MOE = Family(
    name="qwen2_moe",
    title="Qwen 1.5 and 2 (mixtures of experts)",
    read=_read,
    gguf=GgufNames(
        architecture="qwen2moe",
        keys={
            "num_experts": GgufKey("expert_count", int),
            "num_experts_per_tok": GgufKey("expert_used_count", int),
            "moe_intermediate_size": GgufKey("expert_feed_forward_length", int, None),
            "shared_expert_intermediate_size": GgufKey("expert_shared_feed_forward_length", int, None),
        },
        implied={"norm_topk_prob": False},
        flags={"qkv_bias": "layers.0.q_bias"},
        derived=_derived,
    ),
)
