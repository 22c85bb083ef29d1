"""Gemma 3 (Gemma Team 2025, arXiv:2503.19786): most layers attend to a window and turn by a rope of their own, each
sixth to all; norms before and after each part; the embedding is scaled. Its files have of each norm what is to be added
to 1.

Keys and defaults: Gemma3TextConfig of transformers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dllama.errors import ModelFileError
from dllama.families import reading
from dllama.families.family import Family
from dllama.families.gemma import NORM_NAMES, scale_of_scores
from dllama.families.gguf_names import GgufKey, GgufNames
from dllama.families.keys import Keys
from dllama.families.reading import FULL, SLIDING
from dllama.model import Attention, Layer, ModelConfig, RopeStyle

_LAYERS_OF_27B = 62
_UNSUPPORTED = ("attn_logit_softcapping", "final_logit_softcapping", "use_bidirectional_attention")


def _read(keys: Keys) -> ModelConfig:
    keys = keys.with_defaults(
        num_key_value_heads=4,
        head_dim=256,
        hidden_act=keys.get("hidden_activation", "gelu_pytorch_tanh"),
        max_position_embeddings=131072,
        vocab_size=262208,
        query_pre_attn_scalar=256,
        sliding_window=4096,
        sliding_window_pattern=keys.get("_sliding_window_pattern", 6),
        rope_theta=1e6,
        rope_local_base_freq=1e4,
    )
    reading.refuse(keys, *_UNSUPPORTED)
    full = _with_rope(keys, FULL)
    window = reading.window(full)
    of_kind = {
        FULL: _attention(full, window=None),
        SLIDING: _attention(_with_rope(keys, SLIDING), window=window),
    }
    layers = [
        Layer(mixer=of_kind[kind], feed_forward=reading.dense(keys), norms_after=True)
        for kind in _layer_types(keys)
    ]
    dim = keys.whole("hidden_size")
    return reading.model(full, "gemma3_text", layers, embedding_scale=max(dim, 1) ** 0.5)


def _attention(keys: Keys, window: int | None) -> Attention:
    scale = reading.score_scale(keys)
    return reading.attention(keys, RopeStyle.HALVES, window=window, qk_norm=True, scale=scale)


def _with_rope(keys: Keys, kind: str) -> Keys:
    """With the keys of one rope, that of layers of this kind. Scaling without a kind is that of the full ones."""
    nested = keys.table("rope_parameters")
    table = None if nested is None else nested.table(kind)
    own: dict[str, Any] = {"rope_parameters": None if table is None else table.values}
    if kind == SLIDING:
        own |= {"rope_theta": keys.number("rope_local_base_freq"), "rope_scaling": None}
    return keys.replaced(**own)


def _layer_types(keys: Keys) -> list[str]:
    kinds = reading.layer_types(keys, FULL, SLIDING)
    if kinds is not None:
        return kinds
    every = keys.whole("sliding_window_pattern")
    if every < 1:
        raise ModelFileError(f"{keys.path}: sliding_window_pattern is {every}, which cannot be (1 or more)")
    return [SLIDING if (layer + 1) % every else FULL for layer in range(reading.n_layers(keys))]


def _derived(values: Mapping[str, Any]) -> dict[str, Any]:
    return scale_of_scores(values, _LAYERS_OF_27B)


GEMMA3 = Family(
    name="gemma3_text",
    title="Gemma 3 (text)",
    read=_read,
    other_names=NORM_NAMES,
    norms_add_one=True,
    ties_head=True,
    gguf=GgufNames(
        architecture="gemma3",
        keys={
            "sliding_window": GgufKey("attention.sliding_window", int),
            "sliding_window_pattern": GgufKey("attention.sliding_window_pattern", int, 6),
            "rope_local_base_freq": GgufKey("rope.freq_base_swa", float, 1e4),
        },
        derived=_derived,
    ),
)
