"""What GGUF files call attention over latents and the mixtures of DeepSeek-V3 (github.com/ggml-org/llama.cpp,
architecture deepseek2; files from before April 2025, which have keys and values in one matrix, are not read)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dllama.families.gguf_names import GgufKey, GgufNames
from dllama.families.stored_parts import StoredPart
from dllama.model import LatentAttention, Layer

_SCORES = {1: "softmax", 2: "sigmoid"}
"""`expert_gating_func`."""

EXPERT_KEYS = {
    "n_routed_experts": GgufKey("expert_count", int),
    "num_experts_per_tok": GgufKey("expert_used_count", int),
    "moe_intermediate_size": GgufKey("expert_feed_forward_length", int),
    "n_shared_experts": GgufKey("expert_shared_count", int, 0),
    "first_k_dense_replace": GgufKey("leading_dense_block_count", int, 0),
    "routed_scaling_factor": GgufKey("expert_weights_scale", float, 1.0),
    "norm_topk_prob": GgufKey("expert_weights_norm", bool, False),
    "n_group": GgufKey("expert_group_count", int, 1),
    "topk_group": GgufKey("expert_group_used_count", int, 1),
    "expert_gating_func": GgufKey("expert_gating_func", int, 1),
    "num_nextn_predict_layers": GgufKey("nextn_predict_layers", int, 0),
}
EXPERT_TENSORS = {
    "router_choice_bias": "blk.{layer}.exp_probs_b.bias",
    "shared_gate": "blk.{layer}.ffn_gate_shexp.weight",
    "shared_down": "blk.{layer}.ffn_down_shexp.weight",
    "shared_up": "blk.{layer}.ffn_up_shexp.weight",
}


def of_experts(values: Mapping[str, Any]) -> dict[str, Any]:
    """Layers that predict further tokens are counted with the others."""
    return {
        "scoring_func": _SCORES.get(values["expert_gating_func"], "another"),
        "num_hidden_layers": values["num_hidden_layers"] - values["num_nextn_predict_layers"],
    }


def _derived(values: Mapping[str, Any]) -> dict[str, Any]:
    """The file has 0.1 mscale_all_dim, and nothing of mscale, which is the same in all models."""
    derived = of_experts(values)
    derived["q_lora_rank"] = values.get("q_lora_rank")
    derived["qk_nope_head_dim"] = values["qk_head_dim"] - values["qk_rope_head_dim"]
    rope, mscale = values.get("rope_scaling"), 10 * values["yarn_log_multiplier"]
    if rope is not None and mscale:
        derived["rope_scaling"] = {
            **{key: value for key, value in rope.items() if key != "attention_factor"},
            "mscale": mscale,
            "mscale_all_dim": mscale,
        }
    return derived


def _part_of(layer: Layer, name: str) -> StoredPart | None:
    """They are as ours, a stack of one matrix for each head."""
    if name not in ("k_b", "v_b") or not isinstance(layer.mixer, LatentAttention):
        return None
    return StoredPart(f"blk.{{layer}}.attn_{name}.weight")


LATENTS = GgufNames(
    architecture="deepseek2",
    keys=EXPERT_KEYS
    | {
        "num_key_value_heads": None,
        "head_dim": GgufKey("rope.dimension_count", int),  # what turns
        "qk_rope_head_dim": GgufKey("rope.dimension_count", int),
        "q_lora_rank": GgufKey("attention.q_lora_rank", int, None),
        "kv_lora_rank": GgufKey("attention.kv_lora_rank", int),
        "qk_head_dim": GgufKey("attention.key_length_mla", int),
        "v_head_dim": GgufKey("attention.value_length_mla", int),
        "latent_length": GgufKey("attention.value_length", int, None),
        "yarn_log_multiplier": GgufKey("rope.scaling.yarn_log_multiplier", float, 0.0),
    },
    implied={"rope_interleave": True},
    derived=_derived,
    part_of=_part_of,
    tensors=EXPERT_TENSORS
    | {
        "q_a": "blk.{layer}.attn_q_a.weight",
        "q_a_norm": "blk.{layer}.attn_q_a_norm.weight",
        "q_b": "blk.{layer}.attn_q_b.weight",
        "kv_a": "blk.{layer}.attn_kv_a_mqa.weight",
        "kv_a_norm": "blk.{layer}.attn_kv_a_norm.weight",
    },
)
