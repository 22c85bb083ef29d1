"""GLM-4 0414 (GLM Team 2024, arXiv:2406.12793): norms before and after each part, a rope of neighbours on half of each
head, biases on queries, keys and values.

Keys and defaults: Glm4Config of transformers.
"""

from __future__ import annotations

from dllama.families import reading
from dllama.families.family import Family
from dllama.families.gguf_names import GgufNames
from dllama.families.keys import Keys
from dllama.families.stored_parts import Fused, StoredPart, one_after_another
from dllama.model import Dense, Layer, ModelConfig, RopeStyle


def _read(keys: Keys) -> ModelConfig:
    keys = keys.with_defaults(
        num_key_value_heads=2,
        head_dim=128,
        rms_norm_eps=1.5625e-07,
        attention_bias=True,
        partial_rotary_factor=0.5,
    )
    attention = reading.attention(
        keys, RopeStyle.ADJACENT, partial=True, qkv_bias=keys.flag("attention_bias")
    )
    layer = Layer(mixer=attention, feed_forward=reading.dense(keys), norms_after=True)
    return reading.model(keys, "glm4", [layer] * reading.n_layers(keys))


def _part_of(layer: Layer, name: str) -> StoredPart | None:
    """As in GGUF files."""
    assert isinstance(layer.feed_forward, Dense)
    n = layer.feed_forward.ffn_dim
    return one_after_another("blk.{layer}.ffn_up.weight", name, {"gate": n, "up": n})


_GATE_UP = Fused("model.layers.{layer}.mlp.gate_up_proj.weight", ("gate", "up"))

GLM4 = Family(
    name="glm4",
    title="GLM-4 0414, GLM-Z1",
    read=_read,
    other_names={
        "gate": _GATE_UP,
        "up": _GATE_UP,
        "post_attention_norm": "model.layers.{layer}.post_self_attn_layernorm.weight",
        "post_ffn_norm": "model.layers.{layer}.post_mlp_layernorm.weight",
    },
    stores_pairs=True,
    gguf=GgufNames(
        architecture="glm4",
        flags={"attention_bias": "layers.0.q_bias"},
        part_of=_part_of,
    ),
)
