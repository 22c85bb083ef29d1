"""DeepSeek-V3 and R1 (DeepSeek-AI 2024, arXiv:2412.19437): attention over latents and mixtures of experts in groups;
Kimi K2 (Kimi Team 2025, arXiv:2507.20534) is one with other numbers.

Keys and defaults: DeepseekV3Config of transformers.
"""

from __future__ import annotations

from dllama.families import deepseek_experts, latents, reading
from dllama.families.deepseek_gguf import LATENTS
from dllama.families.family import Family
from dllama.families.keys import Keys
from dllama.model import Layer, ModelConfig

_DEFAULTS = {
    "kv_lora_rank": 512,
    "q_lora_rank": 1536,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
    "qk_nope_head_dim": 128,
    "max_position_embeddings": 4096,
    "first_k_dense_replace": 3,
    "moe_intermediate_size": 2048,
    "n_shared_experts": 1,
    "n_routed_experts": 256,
    "num_experts_per_tok": 8,
    "n_group": 8,
    "topk_group": 4,
    "routed_scaling_factor": 2.5,
}


def _read(keys: Keys) -> ModelConfig:
    keys = keys.with_defaults(**_DEFAULTS)
    attention = latents.attention(keys)
    layers = [Layer(mixer=attention, feed_forward=each) for each in deepseek_experts.feed_forwards(keys)]
    return reading.model(keys, "deepseek_v3", layers)


DEEPSEEK_V3 = Family(
    name="deepseek_v3",
    title="DeepSeek V3, R1, Kimi K2",
    read=_read,
    other_names=latents.NAMES | deepseek_experts.NAMES,
    part_of=latents.part_of,
    predicts_further=True,
    gguf=LATENTS,
)
