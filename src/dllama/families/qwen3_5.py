"""Qwen 3.5 to 3.8, the language model: Qwen 3 Next with a dense feed-forward, and with the projections of delta nets
stored apart.

Keys and defaults: Qwen3_5TextConfig of transformers.
"""

from __future__ import annotations

from dllama.families import delta_net_gguf, reading
from dllama.families.family import Family
from dllama.families.gguf_names import GgufNames
from dllama.families.keys import Keys
from dllama.families.qwen3_next import NAMES, PLAIN_NORMS, defaults, mixers, part_of
from dllama.families.stored_parts import StoredPart, one_after_another
from dllama.model import DeltaNet, Layer, ModelConfig


def _read(keys: Keys) -> ModelConfig:
    keys = defaults(keys).with_defaults(num_key_value_heads=4, intermediate_size=12288)
    layers = [Layer(mixer=mixer, feed_forward=reading.dense(keys)) for mixer in mixers(keys)]
    return reading.model(keys, "qwen3_5_text", layers)


def part_of_qkv(layer: Layer, name: str) -> StoredPart | None:
    """As of Qwen 3 Next, but that q, k and v of delta nets stand one after another."""
    part, of = part_of(layer, name), layer.mixer
    if part is not None or not isinstance(of, DeltaNet):
        return part
    n_k, n_v = of.n_key_heads * of.key_dim, of.n_value_heads * of.value_dim
    n_rows = {"delta_q": n_k, "delta_k": n_k, "delta_v": n_v}
    return one_after_another("model.layers.{layer}.linear_attn.in_proj_qkv.weight", name, n_rows)


QWEN3_5 = Family(
    name="qwen3_5_text",
    title="Qwen 3.5 to 3.8",
    read=_read,
    other_names=NAMES,
    norms_add_one=True,
    plain_norms=PLAIN_NORMS,
    part_of=part_of_qkv,
    predicts_further=True,
    gguf=GgufNames(
        architecture="qwen35",
        keys=delta_net_gguf.KEYS,
        derived=delta_net_gguf.derived,
        part_of=delta_net_gguf.part_of,
        tensors=delta_net_gguf.TENSORS,
    ),
)
