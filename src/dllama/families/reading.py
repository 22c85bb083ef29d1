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
    NormKind,
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
FULL, SLIDING = "full_attention", "sliding_attention"
"""Of `layer_types`."""

_NORM_EPS = {NormKind.RMS: ("rms_norm_eps", 1e-6), NormKind.LAYER: ("layer_norm_eps", 1e-5)}
"""Key and default by the kind of norm."""


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


def attention(keys: Keys, style: RopeStyle, *, partial: bool = False, **more: Any) -> Attention:
    """`style` is the order that rows of q and k have once they are read; `more` are other fields. `partial`: the rope
    of this family may turn the first part of each head only."""
    of = rope(keys)
    n_heads = keys.whole("num_attention_heads")
    width = head_dim(keys, n_heads)
    n_rotated = None if of.fraction == 1 else _n_rotated(keys, width, of.fraction, partial)
    return Attention(
        n_heads=n_heads,
        n_kv_heads=keys.whole("num_key_value_heads", n_heads),
        head_dim=width,
        rope=Rope(theta=of.theta, style=style, scaling=of.scaling, n_rotated=n_rotated),
        **more,
    )


def _n_rotated(keys: Keys, head_dim: int, fraction: float, is_known: bool) -> int:
    if not is_known:
        raise keys.unsupported(
            f"a rope on a part of the head (partial_rotary_factor {fraction}) is not supported"
        )
    if not 0 < fraction < 1:
        raise ModelFileError(f"{keys.path}: partial_rotary_factor is {fraction}, which cannot be (0 to 1)")
    return int(head_dim * fraction)


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
    kinds = layer_types(keys, FULL, SLIDING)
    if kinds is None:
        first = min(max(keys.whole("max_window_layers"), 0), n)
        return [None] * first + [size] * (n - first)
    return [size if kind == SLIDING else None for kind in kinds]


def layer_types(keys: Keys, *allowed: str, key: str = "layer_types") -> list[str] | None:
    """What config.json says of each layer, each one of `allowed`; None where it says nothing."""
    n, kinds = n_layers(keys), keys.get(key, None)
    if kinds is None:
        return None
    if not isinstance(kinds, list) or len(kinds) != n or not all(kind in allowed for kind in kinds):
        raise ModelFileError(f"{keys.path}: {key} must list {' or '.join(allowed)} for each of {n} layers")
    return kinds


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


def soft_cap(keys: Keys, name: str) -> float | None:
    """None where it is null or 0."""
    value = keys.number(name, 0.0)
    if value < 0:
        raise ModelFileError(f"{keys.path}: {name} is {value}, which cannot be (0 or more)")
    return value or None


def score_scale(keys: Keys) -> float | None:
    """By `query_pre_attn_scalar`, of which scores are multiplied with the inverse square root. None: the usual one."""
    of = keys.number("query_pre_attn_scalar")
    if of <= 0:
        raise ModelFileError(f"{keys.path}: query_pre_attn_scalar is {of}, which cannot be (above 0)")
    return None if of == head_dim(keys, keys.whole("num_attention_heads")) else of**-0.5


def refuse(keys: Keys, *names: str) -> None:
    """Raises UnsupportedModelError where one of these keys asks for what is not computed: is neither absent nor false,
    0 or null."""
    for name in names:
        if keys.get(name, None):
            shown = reprlib.repr(keys.values[name])
            raise keys.unsupported(
                f"{name} is {shown}, which is not supported; without it the answers would be wrong"
            )


def model(keys: Keys, family: str, layers: Sequence[Layer], **more: Any) -> ModelConfig:
    """The whole; `more` are other fields. The final norm is of the kind of the last layer's. Raises ModelFileError for
    what cannot be."""
    norm = layers[-1].norm if layers else NormKind.RMS
    eps_key, eps_default = _NORM_EPS[norm]
    config = ModelConfig.of_layers(
        layers,
        family=family,
        dim=keys.whole("hidden_size"),
        vocab_size=keys.whole("vocab_size"),
        max_seq_len=rope(keys).max_seq_len,
        norm_eps=shortest_float32(keys.number(eps_key, eps_default)),
        final_norm=norm,
        **more,
    )
    fault = config.fault()
    if fault:
        raise ModelFileError(f"{keys.path}: {fault}")
    return config
