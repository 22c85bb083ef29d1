"""A ModelConfig as the metadata of a GGUF file, and the tensor that says how Llama 3.1's rope is stretched."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from dllama.errors import TokenizerError, UnsupportedModelError
from dllama.formats.gguf import NewValue
from dllama.model import Activation, Attention, Dense, Experts, Layer, ModelConfig, Rope, YarnScaling
from dllama.model.rope import Angles, rope_table

_ARCHITECTURE_OF: Mapping[str, str] = MappingProxyType(
    {"llama": "llama", "mistral": "llama", "qwen2": "qwen2", "qwen3": "qwen3", "qwen3_moe": "qwen3moe"}
)
"""Our family to `general.architecture`."""

_UNUSED = 5
"""The type of a token that no text has."""


def metadata_of_config(config: ModelConfig, name: str) -> dict[str, NewValue]:
    """`name` is the model's, for people. Raises UnsupportedModelError for what is not written."""
    attention, feed_forward, rope = _only_layer(config)
    architecture = _ARCHITECTURE_OF[config.family]
    values: dict[str, NewValue] = {
        "block_count": config.n_layers,
        "context_length": min(config.max_seq_len, attention.window or config.max_seq_len),
        "embedding_length": config.dim,
        **_widths(feed_forward),
        "attention.head_count": attention.n_heads,
        "attention.head_count_kv": attention.n_kv_heads,
        "attention.key_length": attention.head_dim,
        "attention.value_length": attention.head_dim,
        "attention.layer_norm_rms_epsilon": float(config.norm_eps),
        "rope.freq_base": float(rope.theta),
        "rope.dimension_count": rope.n_rotated or attention.head_dim,
        "vocab_size": config.vocab_size,
        **_scaling(config, rope),
    }
    general: dict[str, NewValue] = {
        "general.architecture": architecture,
        "general.type": "model",
        "general.name": name,
        "general.quantization_version": 2,
    }
    return general | {f"{architecture}.{key}": value for key, value in values.items()}


def with_unused_tokens(tokenizer: Mapping[str, NewValue], vocab_size: int) -> dict[str, NewValue]:
    """The tokenizer's keys, with a token for each row of the embedding: llama.cpp asks for as many. Raises
    TokenizerError when there are more."""
    values = dict(tokenizer)
    pieces = values.get("tokenizer.ggml.tokens")
    if not isinstance(pieces, Sequence) or len(pieces) == vocab_size:
        return values
    if len(pieces) > vocab_size:
        raise TokenizerError(
            f"the tokenizer has {len(pieces)} tokens and the model {vocab_size}, which llama.cpp does not read;"
            " convert to q40, which is a .m file"
        )
    n_more = vocab_size - len(pieces)
    values["tokenizer.ggml.tokens"] = [*pieces, *(f"[PAD{len(pieces) + i}]" for i in range(n_more))]
    for key, filler in (("token_type", _UNUSED), ("scores", 0.0)):
        of_tokens = values.get(f"tokenizer.ggml.{key}")
        if isinstance(of_tokens, np.ndarray):
            values[f"tokenizer.ggml.{key}"] = np.append(of_tokens, np.full(n_more, filler, of_tokens.dtype))
    return values


def rope_factors(config: ModelConfig) -> NDArray[np.float32] | None:
    """[E/2], by what the frequency of each pair is divided; None when they are as they are, or keys say it."""
    factors = _divisors(config)
    return None if factors is None or _is_one_number(factors) else factors


def _divisors(config: ModelConfig) -> NDArray[np.float32] | None:
    attention, _, rope = _only_layer(config)
    if rope.scaling is None or isinstance(rope.scaling, YarnScaling):
        return None
    plain = Rope(theta=rope.theta, style=rope.style, n_rotated=rope.n_rotated)
    n_pairs = (rope.n_rotated or attention.head_dim) // 2
    angles = [_angles(each, attention.head_dim)[:n_pairs] for each in (plain, rope)]
    return (angles[0] / angles[1]).astype(np.float32)


def _is_one_number(factors: NDArray[np.float32]) -> bool:
    """But for what cosines and sines lost as float32."""
    return bool(np.ptp(factors) <= 8 * np.finfo(np.float32).eps * factors[0])


def _scaling(config: ModelConfig, rope: Rope) -> dict[str, NewValue]:
    """What keys say of it: llama.cpp multiplies by the attention factor, and then by what YaRN itself asks for."""
    scaling, divisors = rope.scaling, _divisors(config)
    if isinstance(scaling, YarnScaling):
        usual = 1.0 if scaling.factor <= 1 else 1.0 + 0.1 * math.log(scaling.factor)
        return {
            "rope.scaling.type": "yarn",
            "rope.scaling.factor": float(scaling.factor),
            "rope.scaling.original_context_length": scaling.original_max_seq_len,
            "rope.scaling.attn_factor": scaling.attention_factor / usual,
            "rope.scaling.yarn_beta_fast": float(scaling.beta_fast),
            "rope.scaling.yarn_beta_slow": float(scaling.beta_slow),
        }
    if scaling is not None and divisors is not None and _is_one_number(divisors):
        return {"rope.scaling.type": "linear", "rope.scaling.factor": float(scaling.factor)}
    return {}


def _angles(rope: Rope, head_dim: int) -> NDArray[np.float64]:
    """[E/2]: by how much each pair turns from one position to the next."""
    cosines, sines = rope_table(Angles(rope, head_dim), 2)[1].astype(np.float64).T
    return np.asarray(np.arctan2(sines, cosines))


def _widths(feed_forward: Dense | Experts) -> dict[str, NewValue]:
    """Of a model of experts alone `feed_forward_length` is what Qwen's config.json says, though nothing is as wide."""
    if isinstance(feed_forward, Dense):
        return {"feed_forward_length": feed_forward.ffn_dim}
    return {
        "feed_forward_length": feed_forward.top_k * feed_forward.expert_dim,
        "expert_feed_forward_length": feed_forward.expert_dim,
        "expert_count": feed_forward.n_experts,
        "expert_used_count": feed_forward.top_k,
    }


def _only_layer(config: ModelConfig) -> tuple[Attention, Dense | Experts, Rope]:
    """Raises UnsupportedModelError unless all layers are alike, and all that is in them is said above."""
    layer = config.kinds[0]
    mixer, feed_forward = layer.mixer, layer.feed_forward
    is_known = config.family in _ARCHITECTURE_OF and len(config.kinds) == 1 and config.embedding_scale == 1
    if (
        not is_known
        or not isinstance(mixer, Attention)
        or mixer.rope is None
        or layer != _said_of(mixer, feed_forward)
        or (isinstance(mixer.rope.scaling, YarnScaling) and not mixer.rope.scaling.truncate)
    ):
        raise UnsupportedModelError(f"a {config.family} model like this one is not written into GGUF files")
    return mixer, feed_forward, mixer.rope


def _said_of(mixer: Attention, feed_forward: Dense | Experts) -> Layer:
    """A layer of which a file with our keys and tensors says all."""
    attention = Attention(
        n_heads=mixer.n_heads,
        n_kv_heads=mixer.n_kv_heads,
        head_dim=mixer.head_dim,
        rope=mixer.rope,
        window=mixer.window,
        qkv_bias=mixer.qkv_bias,
        qk_norm=mixer.qk_norm,
    )
    if isinstance(feed_forward, Dense):
        return Layer(
            mixer=attention, feed_forward=Dense(ffn_dim=feed_forward.ffn_dim, activation=Activation.SILU)
        )
    experts = Experts(
        n_experts=feed_forward.n_experts,
        top_k=feed_forward.top_k,
        expert_dim=feed_forward.expert_dim,
        activation=Activation.SILU,
        renormalised=True,
    )
    return Layer(mixer=attention, feed_forward=experts)
