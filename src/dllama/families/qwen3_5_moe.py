"""Qwen 3.5 to 3.8's mixtures of experts, the language model: the feed-forwards of Qwen 3 Next with the delta nets of
Qwen 3.5.

Keys and defaults: Qwen3_5MoeTextConfig of transformers.
"""

from __future__ import annotations

from dllama.families import delta_net_gguf, reading
from dllama.families.family import Family
from dllama.families.gguf_names import GgufNames
from dllama.families.keys import Keys
from dllama.families.qwen2_moe import shared_expert
from dllama.families.qwen3_5 import part_of_qkv
from dllama.families.qwen3_moe import feed_forwards
from dllama.families.qwen3_next import NAMES, PLAIN_NORMS, defaults, mixers
from dllama.model import Layer, ModelConfig


def _read(keys: Keys) -> ModelConfig:
    keys = defaults(keys).with_defaults(
        num_key_value_heads=2,
        num_experts=256,
        num_experts_per_tok=8,
        moe_intermediate_size=512,
        shared_expert_intermediate_size=512,
    )
    keys = keys.replaced(
        norm_topk_prob=True, mlp_only_layers=None, decoder_sparse_step=None
    )  # it has no such
    shared = shared_expert(keys)
    layers = [
        Layer(mixer=mixer, feed_forward=each)
        for mixer, each in zip(mixers(keys), feed_forwards(keys, shared), strict=True)
    ]
    return reading.model(keys, "qwen3_5_moe_text", layers)


QWEN3_5_MOE = Family(
    name="qwen3_5_moe_text",
    title="Qwen 3.5 to 3.8 (mixtures of experts)",
    read=_read,
    other_names=NAMES,
    norms_add_one=True,
    plain_norms=PLAIN_NORMS,
    part_of=part_of_qkv,
    predicts_further=True,
    gguf=GgufNames(
        architecture="qwen35moe",
        keys={**delta_net_gguf.KEYS, **delta_net_gguf.EXPERT_KEYS},
        derived=delta_net_gguf.derived,
        part_of=delta_net_gguf.part_of,
        tensors=delta_net_gguf.TENSORS,
    ),
)
