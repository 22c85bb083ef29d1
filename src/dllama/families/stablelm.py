"""StableLM (Bellagente et al. 2024, arXiv:2402.17834): norms take the mean away and have biases, the rope turns the
first quarter of each head, and the larger models have biases on queries, keys and values.

Keys and defaults: StableLmConfig of transformers.
"""

from __future__ import annotations

from dllama.families import reading
from dllama.families.family import Family
from dllama.families.gguf_names import GgufKey, GgufNames
from dllama.families.keys import Keys
from dllama.model import Layer, ModelConfig, NormKind, RopeStyle


def _read(keys: Keys) -> ModelConfig:
    keys = keys.with_defaults(num_key_value_heads=32, partial_rotary_factor=0.25)
    reading.refuse(keys, "use_parallel_residual", "qk_layernorm")
    attention = reading.attention(keys, RopeStyle.HALVES, partial=True, qkv_bias=keys.flag("use_qkv_bias"))
    layer = Layer(mixer=attention, feed_forward=reading.dense(keys), norm=NormKind.LAYER)
    return reading.model(keys, "stablelm", [layer] * reading.n_layers(keys))


STABLELM = Family(
    name="stablelm",
    title="StableLM 2, StableLM 3B",
    read=_read,
    gguf=GgufNames(
        architecture="stablelm",
        keys={"rms_norm_eps": None, "layer_norm_eps": GgufKey("attention.layer_norm_epsilon", float)},
        flags={"use_qkv_bias": "layers.0.q_bias"},
        # its converter says so of models that are none; those that are have no norm before the feed-forward
        ignored=("use_parallel_residual",),
    ),
)
