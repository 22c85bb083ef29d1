"""What Gemma 2 and 3 have in common in their files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

NORM_NAMES = {
    "post_attention_norm": "model.layers.{layer}.post_attention_layernorm.weight",
    "ffn_norm": "model.layers.{layer}.pre_feedforward_layernorm.weight",
    "post_ffn_norm": "model.layers.{layer}.post_feedforward_layernorm.weight",
}
"""What norms before and after each part are called (see Family.other_names)."""


def scale_of_scores(values: Mapping[str, Any], layers_of_27b: int) -> dict[str, Any]:
    """As llama.cpp takes it: the model of so many layers (27B) alone has another scale of attention."""
    width_of_heads = values["hidden_size"] // max(values["num_attention_heads"], 1)
    is_27b = values["num_hidden_layers"] == layers_of_27b
    return {"query_pre_attn_scalar": width_of_heads if is_27b else values["head_dim"]}
