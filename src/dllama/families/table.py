"""The families that dllama knows, one row each.

A row says what differs between models that share one forward pass. To add a family whose mathematics is
already there, add a row.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from dllama.model import RopeStyle

_HF_NAMES: Mapping[str, str] = MappingProxyType(
    {
        "embedding": "model.embed_tokens.weight",
        "q": "model.layers.{layer}.self_attn.q_proj.weight",
        "k": "model.layers.{layer}.self_attn.k_proj.weight",
        "v": "model.layers.{layer}.self_attn.v_proj.weight",
        "o": "model.layers.{layer}.self_attn.o_proj.weight",
        "q_bias": "model.layers.{layer}.self_attn.q_proj.bias",
        "k_bias": "model.layers.{layer}.self_attn.k_proj.bias",
        "v_bias": "model.layers.{layer}.self_attn.v_proj.bias",
        "q_norm": "model.layers.{layer}.self_attn.q_norm.weight",
        "k_norm": "model.layers.{layer}.self_attn.k_norm.weight",
        "gate": "model.layers.{layer}.mlp.gate_proj.weight",
        "down": "model.layers.{layer}.mlp.down_proj.weight",
        "up": "model.layers.{layer}.mlp.up_proj.weight",
        "router": "model.layers.{layer}.mlp.gate.weight",
        "experts_gate": "model.layers.{layer}.mlp.experts.{number}.gate_proj.weight",
        "experts_down": "model.layers.{layer}.mlp.experts.{number}.down_proj.weight",
        "experts_up": "model.layers.{layer}.mlp.experts.{number}.up_proj.weight",
        "attention_norm": "model.layers.{layer}.input_layernorm.weight",
        "ffn_norm": "model.layers.{layer}.post_attention_layernorm.weight",
        "final_norm": "model.norm.weight",
        "head": "lm_head.weight",
    }
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Family:
    """One row. `name` is `model_type` of a Hugging Face config.json."""

    name: str
    title: str
    rope_style: RopeStyle
    """The order that q and k rows have once they are read. Hugging Face always stores halves."""
    qkv_bias: bool = False
    qk_norm: bool = False
    has_experts: bool = False
    """In some layers, or all."""
    window_is_optional: bool = False
    """The window counts only with `use_sliding_window`, and only from layer `max_window_layers` on."""
    hf_defaults: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """What transformers assumes for keys that config.json leaves out."""
    hf_names: Mapping[str, str] = dataclasses.field(default_factory=lambda: _HF_NAMES)
    """Our name of a tensor (without `layers.N.`) to the name in the safetensors files."""

    def hf_name(self, name: str, number: int = 0) -> str:
        """The Hugging Face name of our `name`: `layers.3.q` is `model.layers.3.self_attn.q_proj.weight`. `number`:
        which matrix of a stack."""
        prefix, _, rest = name.partition(".")
        if prefix != "layers":
            return self.hf_names[name]
        layer, _, part = rest.partition(".")
        return self.hf_names[part].format(layer=layer, number=number)


_ROWS = (
    Family(
        name="llama",
        title="Llama 2, 3, 3.1, 3.2, 3.3 and models of their shape",
        rope_style=RopeStyle.ADJACENT,
    ),
    Family(
        name="mistral",
        title="Mistral 7B, Nemo, Small",
        rope_style=RopeStyle.ADJACENT,
        hf_defaults=MappingProxyType({"num_key_value_heads": 8, "sliding_window": 4096}),
    ),
    Family(
        name="qwen2",
        title="Qwen 2, 2.5, QwQ",
        rope_style=RopeStyle.HALVES,
        qkv_bias=True,
        window_is_optional=True,
        hf_defaults=MappingProxyType(
            {"num_key_value_heads": 32, "sliding_window": 4096, "max_window_layers": 28}
        ),
    ),
    Family(
        name="qwen3",
        title="Qwen 3 (dense)",
        rope_style=RopeStyle.HALVES,
        qk_norm=True,
        window_is_optional=True,
        hf_defaults=MappingProxyType(
            {"num_key_value_heads": 32, "head_dim": 128, "sliding_window": 4096, "max_window_layers": 28}
        ),
    ),
    Family(
        name="qwen3_moe",
        title="Qwen 3 (mixtures of experts)",
        rope_style=RopeStyle.HALVES,
        qk_norm=True,
        has_experts=True,
        window_is_optional=True,
        hf_defaults=MappingProxyType(
            {
                "num_key_value_heads": 4,
                "sliding_window": 4096,
                "max_window_layers": 0,
                "num_experts_per_tok": 8,
                "moe_intermediate_size": 768,
            }
        ),
    ),
)

_BY_NAME = {family.name: family for family in _ROWS}


def known_families() -> list[str]:
    """Names of all families, as `model_type` spells them."""
    return list(_BY_NAME)


def family_named(name: str) -> Family:
    """The family's row. Raises KeyError when it is not known."""
    return _BY_NAME[name]
