"""A Hugging Face config.json becomes a ModelConfig.

Meaning and defaults of the keys are those of transformers' configuration classes (LlamaConfig, MistralConfig,
Qwen2Config, Qwen3Config, Qwen3MoeConfig, and `modeling_rope_utils.py` for the rope). Both spellings of the rope are
read: `rope_theta` with `rope_scaling`, and transformers 5's `rope_parameters`.
"""

from __future__ import annotations

import dataclasses
import reprlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dllama.checkpoint.hf.feed_forward import read_feed_forwards
from dllama.checkpoint.hf.keys import HfKeys
from dllama.checkpoint.hf.quantised import quantised_message, scheme_of_config
from dllama.checkpoint.hf.rope import read_hf_rope
from dllama.errors import ModelFileError, UnsupportedModelError
from dllama.families.table import Family, family_named, known_families
from dllama.formats.plain_files import read_json_object
from dllama.model import Attention, Layer, ModelConfig, Rope, shortest_float32
from dllama.model.limits import fault_in_sizes

_DEFAULT_NORM_EPS = 1e-6


@dataclasses.dataclass(frozen=True)
class HfModel:
    config: ModelConfig
    family: Family
    tied_head: bool
    """config.json says that the head is the embedding. Where one is stored, that one counts, as in transformers 5."""


def read_hf_config(path: Path) -> HfModel:
    """The model that the config.json at `path` describes.

    Raises ModelFileError when it cannot be read or contradicts itself, UnsupportedModelError when it asks for
    what dllama does not do; both name the file and the key.
    """
    values = read_json_object(path, ModelFileError)
    return model_from_hf(values, path)


def model_from_hf(values: Mapping[str, Any], path: Path) -> HfModel:
    """The model that `values`, config.json's object, describes; `path` is for messages. Raises as above."""
    model_type = values.get("model_type")
    if not isinstance(model_type, str) or model_type not in known_families():
        known = ", ".join(known_families())
        raise UnsupportedModelError(
            f"{path}: the family {reprlib.repr(model_type)} is not known; known are {known}"
        )
    family = family_named(model_type)
    keys = HfKeys({**family.hf_defaults, **values}, path)
    scheme = scheme_of_config(values)
    if scheme is not None:
        raise UnsupportedModelError(quantised_message(path, scheme))
    n_heads, dim = keys.whole("num_attention_heads"), keys.whole("hidden_size")
    max_seq_len = keys.whole("max_position_embeddings")
    n_layers = keys.whole("num_hidden_layers")
    fault = fault_in_sizes(n_layers=n_layers)
    if fault:
        raise ModelFileError(f"{path}: {fault}")
    rope = read_hf_rope(keys, max_seq_len)
    attention = Attention(
        n_heads=n_heads,
        n_kv_heads=keys.whole("num_key_value_heads", n_heads),
        head_dim=_head_dim(keys, dim, n_heads),
        rope=Rope(theta=rope.theta, style=family.rope_style, scaling=rope.scaling),
        window=_window(keys, family, n_layers, rope.max_seq_len),
        qkv_bias=family.qkv_bias,
        qk_norm=family.qk_norm,
    )
    config = ModelConfig.of_layers(
        [Layer(mixer=attention, feed_forward=each) for each in read_feed_forwards(keys, family, n_layers)],
        family=family.name,
        dim=dim,
        vocab_size=keys.whole("vocab_size"),
        max_seq_len=rope.max_seq_len,
        norm_eps=shortest_float32(keys.number("rms_norm_eps", _DEFAULT_NORM_EPS)),
    )
    fault = config.fault()
    if fault:
        raise ModelFileError(f"{path}: {fault}")
    return HfModel(config, family, keys.flag("tie_word_embeddings"))


def _head_dim(keys: HfKeys, dim: int, n_heads: int) -> int:
    if keys.get("head_dim", None) is not None:
        return keys.whole("head_dim")
    if n_heads < 1 or dim % n_heads:
        raise ModelFileError(
            f"{keys.path}: hidden_size {dim} is no multiple of num_attention_heads {n_heads}"
        )
    return dim // n_heads


def _window(keys: HfKeys, family: Family, n_layers: int, max_seq_len: int) -> int | None:
    """The sliding window of every layer, or None where it never hides a position."""
    if keys.get("sliding_window", None) is None:
        return None
    window = keys.whole("sliding_window")
    if window >= max_seq_len:
        return None
    if not family.window_is_optional:
        return window
    if not keys.flag("use_sliding_window"):
        return None
    n_windowed = _n_windowed_layers(keys, n_layers)
    if n_windowed == 0:
        return None
    if n_windowed < n_layers:
        raise keys.unsupported(
            f"a sliding window on only {n_windowed} of {n_layers} layers (max_window_layers, layer_types)"
            " is not supported"
        )
    return window


def _n_windowed_layers(keys: HfKeys, n_layers: int) -> int:
    kinds = keys.get("layer_types", None)
    if kinds is None:
        return n_layers - min(max(keys.whole("max_window_layers"), 0), n_layers)
    if not isinstance(kinds, list) or len(kinds) != n_layers:
        raise ModelFileError(f"{keys.path}: layer_types must list one kind for each of {n_layers} layers")
    return sum(kind == "sliding_attention" for kind in kinds)
