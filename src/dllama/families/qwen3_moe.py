"""Qwen 3's mixtures of experts (Yang et al. 2025, arXiv:2505.09388): Qwen 3 with experts in place of a dense
feed-forward, in all layers but those that are listed."""

from __future__ import annotations

import reprlib

from dllama.errors import ModelFileError
from dllama.families import reading
from dllama.families.family import Family
from dllama.families.gguf_names import GgufKey, GgufNames
from dllama.families.keys import Keys
from dllama.model import Dense, Experts, Layer, ModelConfig, RopeStyle


def _read(keys: Keys) -> ModelConfig:
    keys = keys.with_defaults(
        num_key_value_heads=4,
        sliding_window=4096,
        max_window_layers=0,
        num_experts_per_tok=8,
        moe_intermediate_size=768,
    )
    windows = reading.optional_windows(keys)
    layers = [
        Layer(mixer=reading.attention(keys, RopeStyle.HALVES, window=window, qk_norm=True), feed_forward=each)
        for window, each in zip(windows, feed_forwards(keys), strict=True)
    ]
    return reading.model(keys, "qwen3_moe", layers)


def feed_forwards(keys: Keys, shared: Dense | None = None) -> list[Dense | Experts]:
    """That of each layer; `shared` is an expert beside the others."""
    has_new_name = keys.get("num_local_experts", None) is not None  # transformers 5 writes that one
    experts = Experts(
        n_experts=keys.whole("num_local_experts" if has_new_name else "num_experts"),
        top_k=keys.whole("num_experts_per_tok"),
        expert_dim=keys.whole("moe_intermediate_size"),
        activation=reading.activation(keys),
        renormalised=keys.flag("norm_topk_prob"),
        shared=shared,
    )
    is_dense = [_is_dense(keys, layer) for layer in range(reading.n_layers(keys))]
    dense = reading.dense(keys) if any(is_dense) else None
    return [dense if of_layer and dense else experts for of_layer in is_dense]


def _is_dense(keys: Keys, layer: int) -> bool:
    """As in transformers: layers that are listed, and all but every `decoder_sparse_step`-th."""
    listed = keys.get("mlp_only_layers", [])
    if not isinstance(listed, list):
        raise ModelFileError(f"{keys.path}: mlp_only_layers must be a list, not {reprlib.repr(listed)}")
    step = keys.whole("decoder_sparse_step", 1)
    if step < 1:
        raise ModelFileError(f"{keys.path}: decoder_sparse_step is {step}, which cannot be (1 or more)")
    return layer in listed or (layer + 1) % step != 0


QWEN3_MOE = Family(
    name="qwen3_moe",
    title="Qwen 3 (mixtures of experts)",
    read=_read,
    gguf=GgufNames(
        architecture="qwen3moe",
        keys={
            "num_experts": GgufKey("expert_count", int),
            "num_experts_per_tok": GgufKey("expert_used_count", int),
            "moe_intermediate_size": GgufKey("expert_feed_forward_length", int),
        },
        implied={"norm_topk_prob": True},
    ),
)
