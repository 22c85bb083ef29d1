"""Attention over latents, by the keys that DeepSeek's models and those after them have for it.

Keys: DeepseekV3Config of transformers.
"""

from __future__ import annotations

import numpy as np

from dllama.errors import ModelFileError
from dllama.families import reading
from dllama.families.keys import Keys
from dllama.families.rope import yarn_magnitude
from dllama.families.stored_parts import StoredPart, runs
from dllama.model import LatentAttention, Layer, Rope, RopeStyle

_KEYS_AND_VALUES = "model.layers.{layer}.self_attn.kv_b_proj.weight"

NAMES = {
    "q_a": "model.layers.{layer}.self_attn.q_a_proj.weight",
    "q_a_norm": "model.layers.{layer}.self_attn.q_a_layernorm.weight",
    "q_b": "model.layers.{layer}.self_attn.q_b_proj.weight",
    "kv_a": "model.layers.{layer}.self_attn.kv_a_proj_with_mqa.weight",
    "kv_a_norm": "model.layers.{layer}.self_attn.kv_a_layernorm.weight",
    "k_b": _KEYS_AND_VALUES,
    "v_b": _KEYS_AND_VALUES,
}
"""What they are called (see Family.other_names)."""


def attention(keys: Keys) -> LatentAttention:
    """One for all layers."""
    reading.refuse(keys, "attention_bias")
    of = reading.rope(keys)
    if of.fraction != 1:
        raise keys.unsupported(f"a rope on a part of qk_rope_head_dim ({of.fraction}) is not supported")
    style = RopeStyle.ADJACENT if keys.flag("rope_interleave", True) else RopeStyle.HALVES
    nope, rope = keys.whole("qk_nope_head_dim"), keys.whole("qk_rope_head_dim")
    if nope + rope < 1:
        raise ModelFileError(f"{keys.path}: heads of {nope} + {rope} elements, which cannot be")
    return LatentAttention(
        n_heads=keys.whole("num_attention_heads"),
        q_rank=None if keys.get("q_lora_rank", None) is None else keys.whole("q_lora_rank"),
        kv_rank=keys.whole("kv_lora_rank"),
        nope_dim=nope,
        rope_dim=rope,
        value_dim=keys.whole("v_head_dim"),
        rope=Rope(theta=of.theta, style=style, scaling=of.scaling),
        scale=(nope + rope) ** -0.5 * _sharpening(keys) ** 2,
    )


def _sharpening(keys: Keys) -> float:
    """By how much a stretched rope makes queries and keys larger, those parts too that do not turn."""
    rope = keys.table("rope_parameters") or keys.table("rope_scaling")
    if rope is None or rope.get("rope_type", rope.get("type", "default")) == "default":
        return 1.0
    by, factor = rope.number("mscale_all_dim", 0.0), rope.number("factor", 1.0)
    return yarn_magnitude(factor, by)


def part_of(layer: Layer, name: str) -> StoredPart | None:
    """Of each head first what makes its keys, then its values; ours of keys has columns and rows the other way."""
    mixer = layer.mixer
    if name not in ("k_b", "v_b") or not isinstance(mixer, LatentAttention):
        return None
    width = mixer.nope_dim + mixer.value_dim
    heads = np.arange(mixer.n_heads) * width
    n_rows = mixer.n_heads * width
    if name == "v_b":
        return StoredPart(_KEYS_AND_VALUES, n_rows, runs(heads + mixer.nope_dim, mixer.value_dim))
    keys = runs(heads, mixer.nope_dim)
    return StoredPart(_KEYS_AND_VALUES, n_rows, keys, transposed=True, matrix_rows=mixer.nope_dim)
