"""What GGUF files usually call tensors and numbers (github.com/ggml-org/llama.cpp, gguf-py/gguf/constants.py). What a
family has besides, or calls otherwise, stands in its own file: `Family.gguf`."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np

from dllama.families import Family, GgufKey, GgufNames, family_named, known_families
from dllama.formats.gguf import Metadata, Texts

_TENSORS: Mapping[str, str] = MappingProxyType(
    {
        "embedding": "token_embd.weight",
        "q": "blk.{layer}.attn_q.weight",
        "k": "blk.{layer}.attn_k.weight",
        "v": "blk.{layer}.attn_v.weight",
        "o": "blk.{layer}.attn_output.weight",
        "q_bias": "blk.{layer}.attn_q.bias",
        "k_bias": "blk.{layer}.attn_k.bias",
        "v_bias": "blk.{layer}.attn_v.bias",
        "o_bias": "blk.{layer}.attn_output.bias",
        "q_norm": "blk.{layer}.attn_q_norm.weight",
        "k_norm": "blk.{layer}.attn_k_norm.weight",
        "gate": "blk.{layer}.ffn_gate.weight",
        "down": "blk.{layer}.ffn_down.weight",
        "up": "blk.{layer}.ffn_up.weight",
        "router": "blk.{layer}.ffn_gate_inp.weight",
        "experts_gate": "blk.{layer}.ffn_gate_exps.weight",
        "experts_down": "blk.{layer}.ffn_down_exps.weight",
        "experts_up": "blk.{layer}.ffn_up_exps.weight",
        "shared_gate": "blk.{layer}.ffn_gate_shexp.weight",
        "shared_down": "blk.{layer}.ffn_down_shexp.weight",
        "shared_up": "blk.{layer}.ffn_up_shexp.weight",
        "shared_out_gate": "blk.{layer}.ffn_gate_inp_shexp.weight",
        "attention_norm": "blk.{layer}.attn_norm.weight",
        "ffn_norm": "blk.{layer}.ffn_norm.weight",
        "post_attention_norm": "blk.{layer}.post_attention_norm.weight",
        "post_ffn_norm": "blk.{layer}.post_ffw_norm.weight",
        "final_norm": "output_norm.weight",
        "attention_norm_bias": "blk.{layer}.attn_norm.bias",
        "ffn_norm_bias": "blk.{layer}.ffn_norm.bias",
        "final_norm_bias": "output_norm.bias",
        "head": "output.weight",
    }
)
"""Our name of a tensor, without `layers.N.`, to the file's."""

_KEYS: Mapping[str, GgufKey] = MappingProxyType(
    {
        "hidden_size": GgufKey("embedding_length", int),
        "intermediate_size": GgufKey("feed_forward_length", int),
        "num_hidden_layers": GgufKey("block_count", int),
        "num_attention_heads": GgufKey("attention.head_count", int),
        "num_key_value_heads": GgufKey("attention.head_count_kv", int, None),
        "head_dim": GgufKey("attention.key_length", int, None),
        "max_position_embeddings": GgufKey("context_length", int),
        "rms_norm_eps": GgufKey("attention.layer_norm_rms_epsilon", float),
    }
)
"""config.json's name of a number to the file's; ropes are in rope.py."""

ROPE_FACTORS = "rope_freqs.weight"
SHORT_FACTORS, LONG_FACTORS = "rope_factors_short.weight", "rope_factors_long.weight"
"""Of LongRoPE: those for texts within the original context, and those for longer ones."""


def gguf_names(family: Family) -> GgufNames:
    """Those of a family that has any."""
    assert family.gguf is not None, family.name
    return family.gguf


def gguf_name(family: Family, name: str) -> str:
    """The file's name of our `name`: `layers.3.q` is `blk.3.attn_q.weight`."""
    prefix, _, rest = name.partition(".")
    layer, _, part = rest.partition(".") if prefix == "layers" else ("", "", name)
    names = gguf_names(family).tensors
    return (names[part] if part in names else _TENSORS[part]).format(layer=layer)


def gguf_keys(family: Family) -> dict[str, GgufKey]:
    """All keys of this family's files, by config.json's names."""
    return {name: key for name, key in {**_KEYS, **gguf_names(family).keys}.items() if key is not None}


def known_architectures() -> list[str]:
    return list(dict.fromkeys(family.gguf.architecture for family in _families() if family.gguf))


def family_of_file(metadata: Metadata, architecture: str) -> Family | None:
    """Whose model a file of this architecture is; None where no family has it."""
    candidates = [each for each in _families() if each.gguf and each.gguf.architecture == architecture]

    def is_told(family: Family) -> bool:
        value = metadata.get(f"{architecture}.{gguf_names(family).told_by}")
        return isinstance(value, Texts | np.ndarray) or bool(value)

    told = [each for each in candidates if is_told(each)]
    plain = [each for each in candidates if gguf_names(each).told_by is None]
    return next(iter([*told, *plain, *candidates]), None)


def _families() -> list[Family]:
    return [family_named(name) for name in known_families()]
