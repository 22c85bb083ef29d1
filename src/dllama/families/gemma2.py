"""Gemma 2 (Gemma Team 2024, arXiv:2408.00118): each second layer attends to a window; scores and logits have soft caps;
norms before and after each part; the embedding is scaled. Its files have of each norm what is to be added to 1.

Keys and defaults: Gemma2Config of transformers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dllama.families import reading
from dllama.families.family import Family
from dllama.families.gemma import NORM_NAMES, scale_of_scores
from dllama.families.gguf_names import GgufKey, GgufNames
from dllama.families.keys import Keys
from dllama.families.reading import FULL, SLIDING
from dllama.model import Layer, ModelConfig, RopeStyle

_LAYERS_OF_27B = 46


def _read(keys: Keys) -> ModelConfig:
    keys = keys.with_defaults(
        num_key_value_heads=4,
        head_dim=256,
        hidden_act=keys.get("hidden_activation", "gelu_pytorch_tanh"),
        query_pre_attn_scalar=256,
        sliding_window=4096,
        attn_logit_softcapping=50.0,
        final_logit_softcapping=30.0,
    )
    reading.refuse(keys, "attention_bias", "use_bidirectional_attention")
    of_kind = {
        kind: reading.attention(
            keys,
            RopeStyle.HALVES,
            window=window,
            scale=reading.score_scale(keys),
            soft_cap=reading.soft_cap(keys, "attn_logit_softcapping"),
        )
        for kind, window in ((FULL, None), (SLIDING, reading.window(keys)))
    }
    kinds = reading.layer_types(keys, FULL, SLIDING)
    if kinds is None:
        kinds = [FULL if layer % 2 else SLIDING for layer in range(reading.n_layers(keys))]
    dense = reading.dense(keys)
    return reading.model(
        keys,
        "gemma2",
        [Layer(mixer=of_kind[kind], feed_forward=dense, norms_after=True) for kind in kinds],
        embedding_scale=max(keys.whole("hidden_size"), 1) ** 0.5,
        logit_soft_cap=reading.soft_cap(keys, "final_logit_softcapping"),
    )


def _derived(values: Mapping[str, Any]) -> dict[str, Any]:
    return scale_of_scores(values, _LAYERS_OF_27B)


GEMMA2 = Family(
    name="gemma2",
    title="Gemma 2",
    read=_read,
    other_names=NORM_NAMES,
    norms_add_one=True,
    ties_head=True,
    gguf=GgufNames(
        architecture="gemma2",
        keys={
            "sliding_window": GgufKey("attention.sliding_window", int, 4096),
            "attn_logit_softcapping": GgufKey("attn_logit_softcapping", float, 50.0),
            "final_logit_softcapping": GgufKey("final_logit_softcapping", float, 30.0),
        },
        derived=_derived,
    ),
)
