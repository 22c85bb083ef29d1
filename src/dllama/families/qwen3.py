"""Qwen 3 (Yang et al. 2025, arXiv:2505.09388): heads of queries and keys are normed, a window in some layers."""

from __future__ import annotations

from dllama.families import reading
from dllama.families.family import Family
from dllama.families.gguf_names import GgufNames
from dllama.families.keys import Keys
from dllama.model import Layer, ModelConfig, RopeStyle


def _read(keys: Keys) -> ModelConfig:
    keys = keys.with_defaults(num_key_value_heads=32, head_dim=128, sliding_window=4096, max_window_layers=28)
    dense = reading.dense(keys)
    layers = [
        Layer(
            mixer=reading.attention(keys, RopeStyle.HALVES, window=window, qk_norm=True), feed_forward=dense
        )
        for window in reading.optional_windows(keys)
    ]
    return reading.model(keys, "qwen3", layers)


QWEN3 = Family(
    name="qwen3",
    title="Qwen 3 (dense)",
    read=_read,
    gguf=GgufNames(architecture="qwen3"),
)
