"""Ministral 3 (Mistral AI 2025): Mistral with YaRN, whose queries grow with the position from the original context on.

Keys and defaults: Ministral3Config of transformers. Within the original context nothing grows, and texts here are no
longer.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from dllama.families import reading
from dllama.families.family import Family
from dllama.families.gguf_names import GgufKey, GgufNames
from dllama.families.keys import Keys
from dllama.model import Layer, ModelConfig, RopeStyle, YarnScaling

_ROPE = {
    "rope_type": "yarn",
    "rope_theta": 1e6,
    "factor": 16.0,
    "original_max_position_embeddings": 16384,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "mscale_all_dim": 1.0,
    "mscale": 1.0,
    "llama_4_scaling_beta": 0.1,
}


def _read(keys: Keys) -> ModelConfig:
    keys = keys.with_defaults(
        num_key_value_heads=8,
        head_dim=128,
        rms_norm_eps=1e-5,
        max_position_embeddings=262144,
        rope_parameters=None if "rope_scaling" in keys.values else _ROPE,
    )
    attention = reading.attention(keys, RopeStyle.ADJACENT, window=reading.window(keys))
    layer = Layer(mixer=attention, feed_forward=reading.dense(keys))
    config = reading.model(keys, "ministral3", [layer] * reading.n_layers(keys))
    rope = keys.table("rope_parameters") or keys.table("rope_scaling") or keys
    if not rope.number("llama_4_scaling_beta", keys.number("llama_4_scaling_beta", 0.0)):
        return config
    scaling = attention.rope.scaling if attention.rope else None
    if not isinstance(scaling, YarnScaling):
        raise keys.unsupported("llama_4_scaling_beta is known beside YaRN only")
    longest = min(config.max_seq_len, scaling.original_max_seq_len)
    return dataclasses.replace(config, max_seq_len=longest)


def _derived(values: Mapping[str, Any]) -> dict[str, Any]:
    """YaRN's own factor of cosine and sine is divided by that of `mscale_all_dim`."""
    scaling, multiplier = values.get("rope_scaling"), values["yarn_log_multiplier"]
    if scaling is None or "attention_factor" not in scaling or scaling["factor"] <= 1:
        return {}
    by = 1 + 0.1 * multiplier * math.log(scaling["factor"])
    return {"rope_scaling": {**scaling, "attention_factor": scaling["attention_factor"] / by}}


MINISTRAL3 = Family(
    name="ministral3",
    title="Ministral 3 (texts of the original context)",
    read=_read,
    gguf=GgufNames(
        architecture="mistral3",
        keys={
            "llama_4_scaling_beta": GgufKey("attention.temperature_scale", float, 0.0),
            "yarn_log_multiplier": GgufKey("rope.scaling.yarn_log_multiplier", float, 0.0),
        },
        derived=_derived,
    ),
)
