"""Mistral (Jiang et al. 2023, arXiv:2310.06825): Llama with a sliding window in every layer."""

from __future__ import annotations

from dllama.families import reading
from dllama.families.family import Family
from dllama.families.gguf_names import GgufNames
from dllama.families.keys import Keys
from dllama.model import Layer, ModelConfig, RopeStyle


def _read(keys: Keys) -> ModelConfig:
    keys = keys.with_defaults(num_key_value_heads=8, sliding_window=4096)
    attention = reading.attention(keys, RopeStyle.ADJACENT, window=reading.window(keys))
    layer = Layer(mixer=attention, feed_forward=reading.dense(keys))
    return reading.model(keys, "mistral", [layer] * reading.n_layers(keys))


MISTRAL = Family(
    name="mistral",
    title="Mistral 7B, Nemo, Small",
    read=_read,
    gguf=GgufNames(architecture="llama"),
)
