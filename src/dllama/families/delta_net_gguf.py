"""How llama.cpp's converter stores delta nets and gated attention (github.com/ggml-org/llama.cpp, conversion/qwen.py).

Queries, keys and values of a delta net are one matrix, their convolution is another; the rates are stored as -e^x. From
Qwen 3.5 on value heads are in turn: the first of every key head, then the second of every one. Queries of attention and
their gates are one matrix, head by head.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dllama.families.gguf_names import GgufKey
from dllama.families.stored_parts import StoredPart, queries_or_gates, runs
from dllama.model import Attention, DeltaNet, Layer

KEYS: Mapping[str, GgufKey | None] = {
    "linear_conv_kernel_dim": GgufKey("ssm.conv_kernel", int),
    "linear_key_head_dim": GgufKey("ssm.state_size", int),
    "linear_num_key_heads": GgufKey("ssm.group_count", int),
    "linear_num_value_heads": GgufKey("ssm.time_step_rank", int),
    "linear_inner_size": GgufKey("ssm.inner_size", int),
    "full_attention_interval": GgufKey("full_attention_interval", int, 4),
    "num_nextn_predict_layers": GgufKey("nextn_predict_layers", int, 0),
}
EXPERT_KEYS: Mapping[str, GgufKey | None] = {
    "num_experts": GgufKey("expert_count", int),
    "num_experts_per_tok": GgufKey("expert_used_count", int),
    "moe_intermediate_size": GgufKey("expert_feed_forward_length", int),
    "shared_expert_intermediate_size": GgufKey("expert_shared_feed_forward_length", int),
    "intermediate_size": None,
}
TENSORS: Mapping[str, str] = {
    "delta_z": "blk.{layer}.attn_gate.weight",
    "delta_norm": "blk.{layer}.ssm_norm.weight",
    "delta_out": "blk.{layer}.ssm_out.weight",
    "log_rate": "blk.{layer}.ssm_a",
    "dt_bias": "blk.{layer}.ssm_dt.bias",
    "ffn_norm": "blk.{layer}.post_attention_norm.weight",
}


_QUERIES = "blk.{layer}.attn_q.weight"


def derived(values: Mapping[str, Any]) -> dict[str, Any]:
    """The width of a value head from that of all; layers that predict further tokens are counted with the others."""
    return {
        "linear_value_head_dim": values["linear_inner_size"] // max(values["linear_num_value_heads"], 1),
        "num_hidden_layers": values["num_hidden_layers"] - values["num_nextn_predict_layers"],
    }


def part_of(layer: Layer, name: str) -> StoredPart | None:
    """Of Qwen 3.5's files."""
    mixer = layer.mixer
    if isinstance(mixer, Attention):
        return queries_or_gates(_QUERIES, name, mixer.n_heads, mixer.head_dim)
    assert isinstance(mixer, DeltaNet)
    order = _in_turn(mixer)
    if name in ("delta_beta", "delta_alpha"):
        pattern = f"blk.{{layer}}.ssm_{name.removeprefix('delta_')}.weight"
        return StoredPart(pattern, mixer.n_value_heads, order)
    return _of_delta_net(mixer, name, order)


def part_of_next(layer: Layer, name: str) -> StoredPart | None:
    """Of Qwen 3 Next's files: value heads of a key head are neighbours, and beta and alpha of each are side by side."""
    of = layer.mixer
    if isinstance(of, Attention):
        return queries_or_gates(_QUERIES, name, of.n_heads, of.head_dim)
    assert isinstance(of, DeltaNet)
    if name in ("delta_beta", "delta_alpha"):
        starts = 2 * of.group * np.arange(of.n_key_heads) + (of.group if name == "delta_alpha" else 0)
        return StoredPart("blk.{layer}.ssm_ba.weight", 2 * of.n_value_heads, runs(starts, of.group))
    return _of_delta_net(of, name, np.arange(of.n_value_heads))


def _in_turn(of: DeltaNet) -> NDArray[np.int64]:
    """The place of each value head."""
    heads = np.arange(of.n_value_heads)
    return heads % of.group * of.n_key_heads + heads // of.group


def _of_delta_net(of: DeltaNet, name: str, order: NDArray[np.int64]) -> StoredPart | None:
    n_k, n_v = of.n_key_heads * of.key_dim, of.n_value_heads * of.value_dim
    values = runs(of.value_dim * order, of.value_dim)
    kind, _, part = name.partition("_")
    rows = {"q": np.arange(n_k), "k": n_k + np.arange(n_k), "v": 2 * n_k + values}
    if kind in ("delta", "conv") and part in rows:
        matrix = "attn_qkv" if kind == "delta" else "ssm_conv1d"
        pattern = f"blk.{{layer}}.{matrix}.weight"
        return StoredPart(pattern, 2 * n_k + n_v, rows[part], transposed=kind == "conv")
    if name == "delta_z":
        return StoredPart(TENSORS[name], n_v, values)
    if name == "delta_out":
        return StoredPart(TENSORS[name], columns=values)
    if name in ("log_rate", "dt_bias"):
        return StoredPart(TENSORS[name], columns=order, exponent=name == "log_rate")
    return None
