"""Qwen 2 and 2.5 (Yang et al. 2024, arXiv:2407.10671): biases on queries, keys and values, a window in some layers."""

from __future__ import annotations

from dllama.families import reading
from dllama.families.family import Family
from dllama.families.gguf_names import GgufNames
from dllama.families.keys import Keys
from dllama.model import Layer, ModelConfig, RopeStyle


def _read(keys: Keys) -> ModelConfig:
    keys = keys.with_defaults(num_key_value_heads=32, sliding_window=4096, max_window_layers=28)
    dense = reading.dense(keys)
    layers = [
        Layer(
            mixer=reading.attention(keys, RopeStyle.HALVES, window=window, qkv_bias=True), feed_forward=dense
        )
        for window in reading.optional_windows(keys)
    ]
    return reading.model(keys, "qwen2", layers)


QWEN2 = Family(
    name="qwen2",
    title="Qwen 2, 2.5, QwQ",
    read=_read,
    gguf=GgufNames(architecture="qwen2"),
)
