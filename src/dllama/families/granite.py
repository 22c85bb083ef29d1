"""Granite 3 and 4, those without experts and Mamba (IBM 2024): Llama with four factors: of the embedding, of what each
part adds to the residual stream, of scores and of logits.

Keys and defaults: GraniteConfig of transformers. With r the factor of parts, x / r is a residual stream to which parts
are added as they are; a norm of x with eps is one of x / r with eps / r^2.
"""

from __future__ import annotations

import dataclasses

from dllama.errors import ModelFileError
from dllama.families import reading
from dllama.families.family import Family
from dllama.families.gguf_names import GgufKey, GgufNames
from dllama.families.keys import Keys
from dllama.model import Layer, ModelConfig, RopeStyle


def _read(keys: Keys) -> ModelConfig:
    reading.refuse(keys, "mlp_bias")
    if not keys.flag("use_rope", True):
        raise keys.unsupported("a model without a rope (use_rope) is not supported")
    has_bias = keys.flag("attention_bias")
    attention = reading.attention(
        keys,
        RopeStyle.ADJACENT,
        scale=_factor(keys, "attention_multiplier"),
        qkv_bias=has_bias,
        o_bias=has_bias,
    )
    of_parts = _factor(keys, "residual_multiplier")
    config = reading.model(
        keys,
        "granite",
        [Layer(mixer=attention, feed_forward=reading.dense(keys))] * reading.n_layers(keys),
        embedding_scale=_factor(keys, "embedding_multiplier") / of_parts,
        logit_scale=1 / _factor(keys, "logits_scaling"),
    )
    return dataclasses.replace(config, norm_eps=config.norm_eps / of_parts**2)


def _factor(keys: Keys, name: str) -> float:
    value = keys.number(name, 1.0)
    if not 1e-4 < value < 1e4:
        raise ModelFileError(f"{keys.path}: {name} is {value}, which cannot be (above 0)")
    return value


GRANITE = Family(
    name="granite",
    title="Granite 3 (dense)",
    read=_read,
    gguf=GgufNames(
        architecture="granite",
        flags={"attention_bias": "layers.0.q_bias"},
        keys={
            "attention_multiplier": GgufKey("attention.scale", float, 1.0),
            "embedding_multiplier": GgufKey("embedding_scale", float, 1.0),
            "residual_multiplier": GgufKey("residual_scale", float, 1.0),
            "logits_scaling": GgufKey("logit_scale", float, 1.0),
            "use_rope": GgufKey("rope.scaling.finetuned", bool, True),
        },
    ),
)
