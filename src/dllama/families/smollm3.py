"""SmolLM3 (Hugging Face 2025): Llama, of which each fourth layer has no rope.

Keys and defaults: SmolLM3Config of transformers.
"""

from __future__ import annotations

import dataclasses
import reprlib

from dllama.errors import ModelFileError
from dllama.families import reading
from dllama.families.family import Family
from dllama.families.gguf_names import GgufNames
from dllama.families.keys import Keys
from dllama.families.reading import FULL, SLIDING
from dllama.model import Layer, ModelConfig, RopeStyle


def _read(keys: Keys) -> ModelConfig:
    keys = keys.with_defaults(num_key_value_heads=4, rope_theta=2e6)
    reading.refuse(keys, "mlp_bias")
    has_bias, size = keys.flag("attention_bias"), reading.window(keys)
    attention = reading.attention(keys, RopeStyle.ADJACENT, qkv_bias=has_bias, o_bias=has_bias)
    has_rope = _has_rope(keys)
    kinds = reading.layer_types(keys, FULL, SLIDING)
    if kinds is None:
        has_windows = keys.flag("use_sliding_window")
        kinds = [SLIDING if has_windows and not turns else FULL for turns in has_rope]
    dense, layers = reading.dense(keys), []
    for kind, turns in zip(kinds, has_rope, strict=True):
        mixer = dataclasses.replace(
            attention,
            rope=attention.rope if turns else None,
            window=size if kind == SLIDING else None,
        )
        layers.append(Layer(mixer=mixer, feed_forward=dense))
    return reading.model(keys, "smollm3", layers)


def _has_rope(keys: Keys) -> list[bool]:
    """Of each layer. `no_rope_layers` lists, in spite of its name, 1 for those with a rope."""
    n, listed = reading.n_layers(keys), keys.get("no_rope_layers", None)
    if listed is not None:
        if not isinstance(listed, list) or len(listed) != n or not all(each in (0, 1) for each in listed):
            raise ModelFileError(
                f"{keys.path}: no_rope_layers must list 0 or 1 for each of {n} layers, not {reprlib.repr(listed)}"
            )
        return [bool(each) for each in listed]
    every = keys.whole("no_rope_layer_interval", 4)
    if every < 1:
        raise ModelFileError(f"{keys.path}: no_rope_layer_interval is {every}, which cannot be (1 or more)")
    return [(layer + 1) % every != 0 for layer in range(n)]


SMOLLM3 = Family(
    name="smollm3",
    title="SmolLM3",
    read=_read,
    ties_head=True,
    gguf=GgufNames(
        architecture="smollm3",
        flags={"attention_bias": "layers.0.q_bias"},
        implied={"no_rope_layer_interval": 4},
    ),
)
