"""Qwen 3 Next: three of four layers are gated delta nets, the others gated attention with a rope on a quarter of each
head; mixtures of many small experts with a shared one. Its files have of each norm what is to be added to 1, but for
the norm within delta nets.

Keys and defaults: Qwen3NextConfig of transformers.
"""

from __future__ import annotations

import numpy as np

from dllama.families import delta_net_gguf, reading
from dllama.families.family import Family
from dllama.families.gguf_names import GgufNames
from dllama.families.keys import Keys
from dllama.families.qwen2_moe import shared_expert
from dllama.families.qwen3_moe import feed_forwards
from dllama.families.stored_parts import StoredPart, one_after_another, queries_or_gates, runs
from dllama.model import (
    Activation,
    Attention,
    DeltaNet,
    Experts,
    Layer,
    Mixer,
    ModelConfig,
    RopeStyle,
)

FULL, LINEAR = "full_attention", "linear_attention"
"""Of `layer_types`."""

NAMES = {
    "delta_z": "model.layers.{layer}.linear_attn.in_proj_z.weight",
    "delta_beta": "model.layers.{layer}.linear_attn.in_proj_b.weight",
    "delta_alpha": "model.layers.{layer}.linear_attn.in_proj_a.weight",
    "log_rate": "model.layers.{layer}.linear_attn.A_log",
    "dt_bias": "model.layers.{layer}.linear_attn.dt_bias",
    "delta_norm": "model.layers.{layer}.linear_attn.norm.weight",
    "delta_out": "model.layers.{layer}.linear_attn.out_proj.weight",
}
"""What they are called (see Family.other_names)."""

PLAIN_NORMS = ("delta_norm",)


def mixers(keys: Keys) -> list[Mixer]:
    """That of each layer: as listed, or all but each fourth a delta net."""
    reading.refuse(keys, "attention_bias")
    attention = reading.attention(keys, RopeStyle.HALVES, partial=True, qk_norm=True, gated=True)
    if reading.activation(keys) is not Activation.SILU:
        raise keys.unsupported("hidden_act beside delta nets is known as silu only")
    delta_net = DeltaNet(
        n_key_heads=keys.whole("linear_num_key_heads", 16),
        n_value_heads=keys.whole("linear_num_value_heads", 32),
        key_dim=keys.whole("linear_key_head_dim", 128),
        value_dim=keys.whole("linear_value_head_dim", 128),
        conv_width=keys.whole("linear_conv_kernel_dim", 4),
    )
    kinds = reading.layer_types(keys, FULL, LINEAR)
    if kinds is None:
        every = keys.whole("full_attention_interval", 4)
        if every < 1:
            raise keys.unsupported(f"full_attention_interval is {every}, which cannot be (1 or more)")
        kinds = [LINEAR if (layer + 1) % every else FULL for layer in range(reading.n_layers(keys))]
    return [attention if kind == FULL else delta_net for kind in kinds]


def defaults(keys: Keys) -> Keys:
    """Those of all that have delta nets."""
    return keys.with_defaults(
        head_dim=256, num_attention_heads=16, partial_rotary_factor=0.25, max_position_embeddings=32768
    )


def _read(keys: Keys) -> ModelConfig:
    keys = defaults(keys).with_defaults(
        num_key_value_heads=2,
        num_experts=512,
        num_experts_per_tok=10,
        moe_intermediate_size=512,
        shared_expert_intermediate_size=512,
        intermediate_size=5632,
        norm_topk_prob=True,
    )
    shared = shared_expert(keys)
    layers = [
        Layer(mixer=mixer, feed_forward=each)
        for mixer, each in zip(mixers(keys), feed_forwards(keys, shared), strict=True)
    ]
    return reading.model(keys, "qwen3_next", layers)


_QUERIES = "model.layers.{layer}.self_attn.q_proj.weight"


def part_of(layer: Layer, name: str) -> StoredPart | None:
    """What files have as one of delta nets, of queries and their gates, and of experts."""
    mixer, feed_forward = layer.mixer, layer.feed_forward
    part = None
    if isinstance(mixer, Attention):
        part = queries_or_gates(_QUERIES, name, mixer.n_heads, mixer.head_dim)
    elif isinstance(mixer, DeltaNet):
        part = _of_convolution(mixer, name)
    if part is None and isinstance(feed_forward, Experts):
        part = _of_experts(feed_forward, name)
    return part


def _part(layer: Layer, name: str) -> StoredPart | None:
    part = part_of(layer, name)
    if part is None and isinstance(layer.mixer, DeltaNet):
        part = _of_key_heads(layer.mixer, name)
    return part


def _of_convolution(of: DeltaNet, name: str) -> StoredPart | None:
    """The channels of queries, keys and values, one after another."""
    n_k, n_v = of.n_key_heads * of.key_dim, of.n_value_heads * of.value_dim
    n_rows = {"conv_q": n_k, "conv_k": n_k, "conv_v": n_v}
    return one_after_another("model.layers.{layer}.linear_attn.conv1d.weight", name, n_rows, transposed=True)


def _of_key_heads(of: DeltaNet, name: str) -> StoredPart | None:
    """Of each key head what belongs to it: its queries and keys, then values and gates of its value heads; and beta and
    alpha of these."""
    values = of.group * of.value_dim
    places = {
        "delta_q": ("qkvz", 0, of.key_dim),
        "delta_k": ("qkvz", of.key_dim, of.key_dim),
        "delta_v": ("qkvz", 2 * of.key_dim, values),
        "delta_z": ("qkvz", 2 * of.key_dim + values, values),
        "delta_beta": ("ba", 0, of.group),
        "delta_alpha": ("ba", of.group, of.group),
    }
    if name not in places:
        return None
    matrix, first, n = places[name]
    step = 2 * (of.key_dim + values) if matrix == "qkvz" else 2 * of.group
    pattern = "model.layers.{layer}.linear_attn.in_proj_" + matrix + ".weight"
    starts = step * np.arange(of.n_key_heads) + first
    return StoredPart(pattern, step * of.n_key_heads, runs(starts, n))


def _of_experts(of: Experts, name: str) -> StoredPart | None:
    """All of them as one stack, gate above up; or each by itself, under the usual names."""
    pattern, width = "model.layers.{layer}.mlp.experts.", of.expert_dim
    if name == "experts_down":
        return StoredPart(pattern + "down_proj")
    if name not in ("experts_gate", "experts_up"):
        return None
    starts = 2 * width * np.arange(of.n_experts) + (width if name == "experts_up" else 0)
    return StoredPart(pattern + "gate_up_proj", 2 * width * of.n_experts, runs(starts, width))


QWEN3_NEXT = Family(
    name="qwen3_next",
    title="Qwen 3 Next",
    read=_read,
    other_names=NAMES,
    norms_add_one=True,
    plain_norms=PLAIN_NORMS,
    part_of=_part,
    predicts_further=True,
    gguf=GgufNames(
        architecture="qwen3next",
        keys={**delta_net_gguf.KEYS, **delta_net_gguf.EXPERT_KEYS},
        implied={"norm_topk_prob": True},
        derived=delta_net_gguf.derived,
        part_of=delta_net_gguf.part_of_next,
        tensors=delta_net_gguf.TENSORS,
    ),
)
