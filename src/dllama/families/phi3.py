"""Phi-3 and Phi-4 (Abdin et al. 2024, arXiv:2404.14219): Llama whose files have queries, keys and values as one matrix,
and gate and up projections.

Keys and defaults: Phi3Config of transformers.
"""

from __future__ import annotations

from dllama.families import reading
from dllama.families.family import Family
from dllama.families.gguf_names import GgufKey, GgufNames
from dllama.families.keys import Keys
from dllama.families.stored_parts import Fused, StoredPart, one_after_another
from dllama.model import Attention, Dense, Layer, ModelConfig, RopeStyle


def _read(keys: Keys) -> ModelConfig:
    keys = keys.with_defaults(rms_norm_eps=1e-5, max_position_embeddings=4096)
    attention = reading.attention(keys, RopeStyle.HALVES, partial=True, window=reading.window(keys))
    layer = Layer(mixer=attention, feed_forward=reading.dense(keys))
    return reading.model(keys, "phi3", [layer] * reading.n_layers(keys))


def _part_of(layer: Layer, name: str) -> StoredPart | None:
    """As in GGUF files."""
    mixer, dense = layer.mixer, layer.feed_forward
    assert isinstance(mixer, Attention)
    assert isinstance(dense, Dense)
    n_q, n_kv = mixer.n_heads * mixer.head_dim, mixer.n_kv_heads * mixer.head_dim
    of_qkv = one_after_another("blk.{layer}.attn_qkv.weight", name, {"q": n_q, "k": n_kv, "v": n_kv})
    return of_qkv or one_after_another(
        "blk.{layer}.ffn_up.weight", name, {"gate": dense.ffn_dim, "up": dense.ffn_dim}
    )


_QKV = Fused("model.layers.{layer}.self_attn.qkv_proj.weight", ("q", "k", "v"))
_GATE_UP = Fused("model.layers.{layer}.mlp.gate_up_proj.weight", ("gate", "up"))


PHI3 = Family(
    name="phi3",
    title="Phi-3, Phi-4 (texts of the original context)",
    read=_read,
    other_names={"q": _QKV, "k": _QKV, "v": _QKV, "gate": _GATE_UP, "up": _GATE_UP},
    gguf=GgufNames(
        architecture="phi3",
        keys={"sliding_window": GgufKey("attention.sliding_window", int, None)},
        part_of=_part_of,
    ),
)
