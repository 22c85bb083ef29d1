"""Llama (Touvron et al. 2023, arXiv:2302.13971; Llama Team 2024, arXiv:2407.21783)."""

from __future__ import annotations

from dllama.families import reading
from dllama.families.family import Family
from dllama.families.gguf_names import GgufNames
from dllama.families.keys import Keys
from dllama.model import Layer, ModelConfig, RopeStyle


def _read(keys: Keys) -> ModelConfig:
    layer = Layer(mixer=reading.attention(keys, RopeStyle.ADJACENT), feed_forward=reading.dense(keys))
    return reading.model(keys, "llama", [layer] * reading.n_layers(keys))


LLAMA = Family(
    name="llama",
    title="Llama 2, 3, 3.1, 3.2, 3.3 and models of their shape",
    read=_read,
    gguf=GgufNames(architecture="llama"),
)
