"""GLM 4.7 Flash: GLM's mixtures of experts behind DeepSeek's attention over latents.

Keys and defaults: Glm4MoeLiteConfig of transformers.
"""

from __future__ import annotations

from dllama.families import deepseek_experts, latents, reading
from dllama.families.deepseek_gguf import LATENTS
from dllama.families.family import Family
from dllama.families.keys import Keys
from dllama.model import Layer, ModelConfig

_DENSE, _SPARSE = "dense", "sparse"
"""Of `mlp_layer_types`."""

_DEFAULTS = {
    "kv_lora_rank": 512,
    "q_lora_rank": 768,
    "qk_rope_head_dim": 64,
    "v_head_dim": 256,
    "qk_nope_head_dim": 192,
    "rms_norm_eps": 1e-5,
    "max_position_embeddings": 202752,
    "first_k_dense_replace": 1,
    "moe_intermediate_size": 1536,
    "n_shared_experts": 1,
    "n_routed_experts": 64,
    "num_experts_per_tok": 4,
    "routed_scaling_factor": 1.8,
}


def _read(keys: Keys) -> ModelConfig:
    keys = keys.with_defaults(**_DEFAULTS)
    feed_forwards = deepseek_experts.feed_forwards(keys)
    kinds = reading.layer_types(keys, _DENSE, _SPARSE, key="mlp_layer_types")
    if kinds is not None:
        mixture = deepseek_experts.mixture(keys)
        feed_forwards = [reading.dense(keys) if kind == _DENSE else mixture for kind in kinds]
    attention = latents.attention(keys)
    layers = [Layer(mixer=attention, feed_forward=each) for each in feed_forwards]
    return reading.model(keys, "glm4_moe_lite", layers)


GLM4_MOE_LITE = Family(
    name="glm4_moe_lite",
    title="GLM 4.7 Flash",
    read=_read,
    other_names=latents.NAMES | deepseek_experts.NAMES,
    part_of=latents.part_of,
    predicts_further=True,
    gguf=LATENTS,
)
