"""gpt-oss (OpenAI 2025, arXiv:2508.10925): experts in every layer, with biases everywhere and a clamped activation;
every second layer attends to a window; each query head has a sink; YaRN whose borders are not rounded.

Keys and defaults: GptOssConfig of transformers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dllama.families import reading
from dllama.families.family import Family
from dllama.families.gguf_names import GgufKey, GgufNames
from dllama.families.keys import Keys
from dllama.families.reading import FULL, SLIDING
from dllama.families.stored_parts import Fused
from dllama.model import Activation, Experts, Layer, ModelConfig, RopeStyle

_ROPE = {
    "rope_type": "yarn",
    "factor": 32.0,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "truncate": False,
    "original_max_position_embeddings": 4096,
}
_ACTIVATION = {"swiglu_alpha": 1.702, "swiglu_limit": 7.0}


def _read(keys: Keys) -> ModelConfig:
    keys = keys.with_defaults(
        num_key_value_heads=8,
        head_dim=64,
        sliding_window=128,
        rope_theta=150000.0,
        rope_parameters=None if "rope_scaling" in keys.values else _ROPE,
        max_position_embeddings=131072,
        rms_norm_eps=1e-5,
        attention_bias=True,
    )
    for key, known in _ACTIVATION.items():
        if keys.number(key, known) != known:
            raise keys.unsupported(f"{key} is {keys.number(key)}, which is not supported; {known} is")
    has_bias, window = keys.flag("attention_bias"), reading.window(keys)
    of_kind = {
        kind: reading.attention(
            keys, RopeStyle.HALVES, window=size, qkv_bias=has_bias, o_bias=has_bias, sinks=True
        )
        for kind, size in ((FULL, None), (SLIDING, window))
    }
    experts = _experts(keys)
    layers = [Layer(mixer=of_kind[kind], feed_forward=experts) for kind in _layer_types(keys)]
    return reading.model(keys, "gpt_oss", layers)


def _experts(keys: Keys) -> Experts:
    """The softmax of the chosen experts' logits is that of all, divided by the sum of theirs."""
    return Experts(
        n_experts=keys.whole("num_local_experts" if "num_local_experts" in keys.values else "num_experts"),
        top_k=keys.whole("num_experts_per_tok", keys.get("experts_per_token", 4)),
        expert_dim=keys.whole("intermediate_size"),
        activation=Activation.SWIGLU_OAI,
        renormalised=True,
        router_bias=True,
        biases=True,
    )


def _layer_types(keys: Keys) -> list[str]:
    kinds = reading.layer_types(keys, FULL, SLIDING)
    return kinds or [FULL if layer % 2 else SLIDING for layer in range(reading.n_layers(keys))]


def _derived(values: Mapping[str, Any]) -> dict[str, Any]:
    """GGUF files do not say that YaRN's borders are not rounded."""
    scaling = values.get("rope_scaling")
    return {} if scaling is None else {"rope_scaling": {**scaling, "truncate": False}}


_MLP = "model.layers.{layer}.mlp."
_GATE_UP, _GATE_UP_BIAS = ("experts_gate", "experts_up"), ("experts_gate_bias", "experts_up_bias")

GPT_OSS = Family(
    name="gpt_oss",
    title="gpt-oss",
    read=_read,
    other_names={
        "sinks": "model.layers.{layer}.self_attn.sinks",
        "router": f"{_MLP}router.weight",
        "router_bias": f"{_MLP}router.bias",
        "experts_gate": Fused(f"{_MLP}experts.gate_up_proj", _GATE_UP, interleaved=True, transposed=True),
        "experts_up": Fused(f"{_MLP}experts.gate_up_proj", _GATE_UP, interleaved=True, transposed=True),
        "experts_down": Fused(f"{_MLP}experts.down_proj", ("experts_down",), transposed=True),
        "experts_gate_bias": Fused(f"{_MLP}experts.gate_up_proj_bias", _GATE_UP_BIAS, interleaved=True),
        "experts_up_bias": Fused(f"{_MLP}experts.gate_up_proj_bias", _GATE_UP_BIAS, interleaved=True),
        "experts_down_bias": Fused(f"{_MLP}experts.down_proj_bias", ("experts_down_bias",)),
    },
    gguf=GgufNames(
        architecture="gpt-oss",
        keys={
            "num_local_experts": GgufKey("expert_count", int),
            "num_experts_per_tok": GgufKey("expert_used_count", int),
            "intermediate_size": GgufKey("expert_feed_forward_length", int),
            "sliding_window": GgufKey("attention.sliding_window", int),
        },
        derived=_derived,
        tensors={
            "ffn_norm": "blk.{layer}.post_attention_norm.weight",
            "sinks": "blk.{layer}.attn_sinks.weight",
            "router_bias": "blk.{layer}.ffn_gate_inp.bias",
            "experts_gate_bias": "blk.{layer}.ffn_gate_exps.bias",
            "experts_up_bias": "blk.{layer}.ffn_up_exps.bias",
            "experts_down_bias": "blk.{layer}.ffn_down_exps.bias",
        },
    ),
)
