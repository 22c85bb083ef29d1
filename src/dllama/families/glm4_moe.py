"""GLM 4.5 to 4.7 (GLM-4.5 Team 2025, arXiv:2508.06471): the mixtures of DeepSeek-V3 behind the attention of grouped
heads, with a rope on half of each.

Keys and defaults: Glm4MoeConfig of transformers.
"""

from __future__ import annotations

from dllama.families import deepseek_experts, reading
from dllama.families.family import Family
from dllama.families.keys import Keys
from dllama.model import Layer, ModelConfig, RopeStyle


def _read(keys: Keys) -> ModelConfig:
    keys = keys.with_defaults(
        num_key_value_heads=8,
        partial_rotary_factor=0.5,
        rms_norm_eps=1e-5,
        first_k_dense_replace=1,
        n_shared_experts=1,
        n_routed_experts=128,
        num_experts_per_tok=8,
        moe_intermediate_size=1408,
    )
    attention = reading.attention(
        keys,
        RopeStyle.HALVES,
        partial=True,
        qkv_bias=keys.flag("attention_bias"),
        qk_norm=keys.flag("use_qk_norm"),
    )
    layers = [Layer(mixer=attention, feed_forward=each) for each in deepseek_experts.feed_forwards(keys)]
    return reading.model(keys, "glm4_moe", layers)


GLM4_MOE = Family(
    name="glm4_moe",
    title="GLM 4.5 to 4.7",
    read=_read,
    other_names=deepseek_experts.NAMES,
    predicts_further=True,
)
