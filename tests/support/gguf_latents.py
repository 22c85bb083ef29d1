"""What llama.cpp's converter makes of attention over latents and DeepSeek's mixtures, from Hugging Face's tensors
and not by way of ours (github.com/ggml-org/llama.cpp, conversion/deepseek.py)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from support.gguf_delta import Floats, bf16_tensors


def values_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """What keys say, by the names that families have for them."""
    return {
        "qk_head_dim": config["qk_nope_head_dim"] + config["qk_rope_head_dim"],
        "expert_gating_func": 2,
        "first_k_dense_replace": config.get("first_k_dense_replace", 1),
        "num_nextn_predict_layers": 0,
    }


def keys_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """Keys that are not as those of other attention: of what is in the cache, one head."""
    keys: dict[str, Any] = {
        "attention.head_count_kv": 1,
        "attention.key_length": config["kv_lora_rank"] + config["qk_rope_head_dim"],
        "attention.value_length": config["kv_lora_rank"],
        "rope.dimension_count": config["qk_rope_head_dim"],
    }
    if "mscale_all_dim" in config["rope_parameters"]:
        keys["rope.scaling.yarn_log_multiplier"] = 0.1 * config["rope_parameters"]["mscale_all_dim"]
    return keys


def converted(directory: Path, config: Mapping[str, Any]) -> dict[str, Floats]:
    """Each head's part of kv_b_proj: what makes keys the other way round, what makes values as it is."""
    found = {}
    nope = config["qk_nope_head_dim"]
    for name, values in bf16_tensors(directory / "model.safetensors").items():
        if name.endswith("kv_b_proj.weight"):
            layer, heads = (
                name.split(".")[2],
                values.reshape(config["num_attention_heads"], -1, values.shape[1]),
            )
            found[f"blk.{layer}.attn_k_b.weight"] = np.ascontiguousarray(heads[:, :nope].swapaxes(1, 2))
            found[f"blk.{layer}.attn_v_b.weight"] = np.ascontiguousarray(heads[:, nope:])
    return found
