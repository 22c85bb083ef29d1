"""What llama.cpp calls families, keys and tensors (github.com/ggml-org/llama.cpp, gguf-py/gguf/constants.py)."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

FAMILY_OF: Mapping[str, str] = MappingProxyType(
    {
        "llama": "llama",  # Mistral's models too
        "qwen2": "qwen2",
        "qwen3": "qwen3",
        "qwen3moe": "qwen3_moe",
        "gemma3": "gemma3_text",
    }
)
"""`general.architecture` to the name of our family."""

_NAMES: Mapping[str, str] = MappingProxyType(
    {
        "embedding": "token_embd.weight",
        "q": "blk.{layer}.attn_q.weight",
        "k": "blk.{layer}.attn_k.weight",
        "v": "blk.{layer}.attn_v.weight",
        "o": "blk.{layer}.attn_output.weight",
        "q_bias": "blk.{layer}.attn_q.bias",
        "k_bias": "blk.{layer}.attn_k.bias",
        "v_bias": "blk.{layer}.attn_v.bias",
        "q_norm": "blk.{layer}.attn_q_norm.weight",
        "k_norm": "blk.{layer}.attn_k_norm.weight",
        "gate": "blk.{layer}.ffn_gate.weight",
        "down": "blk.{layer}.ffn_down.weight",
        "up": "blk.{layer}.ffn_up.weight",
        "router": "blk.{layer}.ffn_gate_inp.weight",
        "experts_gate": "blk.{layer}.ffn_gate_exps.weight",
        "experts_down": "blk.{layer}.ffn_down_exps.weight",
        "experts_up": "blk.{layer}.ffn_up_exps.weight",
        "attention_norm": "blk.{layer}.attn_norm.weight",
        "ffn_norm": "blk.{layer}.ffn_norm.weight",
        "post_attention_norm": "blk.{layer}.post_attention_norm.weight",
        "post_ffn_norm": "blk.{layer}.post_ffw_norm.weight",
        "final_norm": "output_norm.weight",
        "attention_norm_bias": "blk.{layer}.attn_norm.bias",
        "ffn_norm_bias": "blk.{layer}.ffn_norm.bias",
        "final_norm_bias": "output_norm.bias",
        "head": "output.weight",
    }
)
"""Our name of a tensor, without `layers.N.`, to the file's."""

_OF_FAMILY: Mapping[str, Mapping[str, str]] = MappingProxyType({})
"""What a family calls otherwise, or has besides."""

ROPE_FACTORS = "rope_freqs.weight"


def gguf_name(family: str, name: str) -> str:
    """The file's name of our `name`: `layers.3.q` is `blk.3.attn_q.weight`."""
    prefix, _, rest = name.partition(".")
    layer, _, part = rest.partition(".") if prefix == "layers" else ("", "", name)
    names = _OF_FAMILY.get(family, {})
    return (names[part] if part in names else _NAMES[part]).format(layer=layer)
