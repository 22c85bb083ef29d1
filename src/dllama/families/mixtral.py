"""Mixtral (Jiang et al. 2024, arXiv:2401.04088): Mistral with experts in place of the dense feed-forward.

Keys and defaults: MixtralConfig of transformers. A weight of an expert is its part of the softmax of the chosen ones.
"""

from __future__ import annotations

from dllama.families import reading
from dllama.families.family import Family
from dllama.families.gguf_names import GgufKey, GgufNames
from dllama.families.keys import Keys
from dllama.model import Experts, Layer, ModelConfig, RopeStyle


def _read(keys: Keys) -> ModelConfig:
    keys = keys.with_defaults(
        num_key_value_heads=8,
        rope_theta=1e6,
        rms_norm_eps=1e-5,
        num_local_experts=keys.get("num_experts", 8),
        num_experts_per_tok=2,
    )
    experts = Experts(
        n_experts=keys.whole("num_local_experts"),
        top_k=keys.whole("num_experts_per_tok"),
        expert_dim=keys.whole("intermediate_size"),
        activation=reading.activation(keys),
        renormalised=True,
    )
    attention = reading.attention(keys, RopeStyle.ADJACENT, window=reading.window(keys))
    layer = Layer(mixer=attention, feed_forward=experts)
    return reading.model(keys, "mixtral", [layer] * reading.n_layers(keys))


_MOE = "model.layers.{layer}.block_sparse_moe."

MIXTRAL = Family(
    name="mixtral",
    title="Mixtral 8x7B, 8x22B",
    read=_read,
    other_names={
        "router": f"{_MOE}gate.weight",
        "experts_gate": _MOE + "experts.{number}.w1.weight",
        "experts_down": _MOE + "experts.{number}.w2.weight",
        "experts_up": _MOE + "experts.{number}.w3.weight",
    },
    gguf=GgufNames(
        architecture="llama",
        told_by="expert_count",
        keys={
            "num_local_experts": GgufKey("expert_count", int),
            "num_experts_per_tok": GgufKey("expert_used_count", int),
        },
    ),
)
