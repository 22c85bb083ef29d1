"""What most families say by the same keys. Meaning and defaults are those of transformers' configuration classes."""

from __future__ import annotations

import reprlib
from collections.abc import Sequence
from typing import Any

from dllama.errors import ModelFileError
from dllama.families.keys import Keys
from dllama.families.rope import ReadRope, read_rope
from dllama.model import (
    Activation,
    Attention,
    Dense,
    Layer,
    ModelConfig,
    Rope,
    RopeStyle,
    shortest_float32,
)
from dllama.model.limits import fault_in_sizes

_ACTIVATIONS = {
    "silu": Activation.SILU,
    "swish": Activation.SILU,
    "gelu_pytorch_tanh": Activation.GELU,
    "gelu_new": Activation.GELU,
}
_DEFAULT_NORM_EPS = 1e-6


def n_layers(keys: Keys) -> int:
    """Raises ModelFileError for more than can be: lists are made of them."""
    n = keys.whole("num_hidden_layers")
    fault = fault_in_sizes(n_layers=n)
    if fault:
        raise ModelFileError(f"{keys.path}: {fault}")
    return n


def rope(keys: Keys) -> ReadRope:
    """One for all layers."""
    return read_rope(keys, keys.whole("max_position_embeddings"))


def attention(keys: Keys, style: RopeStyle, **more: Any) -> Attention:
    """`style` is the order that rows of q and k have once they are read; `more` are other fields."""
    of = rope(keys)
    n_heads = keys.whole("num_attention_heads")
    return Attention(
        n_heads=n_heads,
        n_kv_heads=keys.whole("num_key_value_heads", n_heads),
        head_dim=head_dim(keys, n_heads),
        rope=Rope(theta=of.theta, style=style, scaling=of.scaling),
        **more,
    )


def head_dim(keys: Keys, n_heads: int) -> int:
    if keys.get("head_dim", None) is not None:
        return keys.whole("head_dim")
    dim = keys.whole("hidden_size")
    if n_heads < 1 or dim % n_heads:
        raise ModelFileError(
            f"{keys.path}: hidden_size {dim} is no multiple of num_attention_heads {n_heads}"
        )
    return dim // n_heads


def window(keys: Keys) -> int | None:
    """The sliding window, or None where there is none, or one that never hides a position."""
    if keys.get("sliding_window", None) is None:
        return None
    size = keys.whole("sliding_window")
    return size if size < rope(keys).max_seq_len else None


def optional_windows(keys: Keys) -> list[int | None]:
    """That of each layer, where a window counts only with `use_sliding_window`, and only from layer `max_window_layers`
    on or where `layer_types` says so."""
    n, size = n_layers(keys), window(keys)
    if size is None or not keys.flag("use_sliding_window"):
        return [None] * n
    kinds = keys.get("layer_types", None)
    if kinds is None:
        first = min(max(keys.whole("max_window_layers"), 0), n)
        return [None] * first + [size] * (n - first)
    if not isinstance(kinds, list) or len(kinds) != n:
        raise ModelFileError(f"{keys.path}: layer_types must list one kind for each of {n} layers")
    return [size if kind == "sliding_attention" else None for kind in kinds]


def activation(keys: Keys) -> Activation:
    name = keys.get("hidden_act", "silu")
    if not isinstance(name, str) or name not in _ACTIVATIONS:
        known = ", ".join(_ACTIVATIONS)
        raise keys.unsupported(
            f"the activation {reprlib.repr(name)} (hidden_act) is not supported; supported are {known}"
        )
    return _ACTIVATIONS[name]


def dense(keys: Keys) -> Dense:
    return Dense(ffn_dim=keys.whole("intermediate_size"), activation=activation(keys))


def model(keys: Keys, family: str, layers: Sequence[Layer], **more: Any) -> ModelConfig:
    """The whole; `more` are other fields. Raises ModelFileError for what cannot be."""
    config = ModelConfig.of_layers(
        layers,
        family=family,
        dim=keys.whole("hidden_size"),
        vocab_size=keys.whole("vocab_size"),
        max_seq_len=rope(keys).max_seq_len,
        norm_eps=shortest_float32(keys.number("rms_norm_eps", _DEFAULT_NORM_EPS)),
        **more,
    )
    fault = config.fault()
    if fault:
        raise ModelFileError(f"{keys.path}: {fault}")
    return config
