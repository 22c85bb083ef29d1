"""A ModelConfig as the metadata of a GGUF file, and the tensor that says how Llama 3.1's rope is stretched."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dllama.checkpoint.gguf.config import model_of_metadata
from dllama.checkpoint.gguf.names import ROPE_FACTORS, family_of_file, gguf_keys, gguf_names
from dllama.dtypes import ElementType
from dllama.errors import ModelFileError, TokenizerError, UnsupportedModelError
from dllama.families import Family, family_named
from dllama.formats.gguf import Metadata, NewValue, as_read
from dllama.model import Attention, Dense, Experts, ModelConfig, ModelSpec, Rope, RopeScaling, YarnScaling
from dllama.model.rope import Angles, rope_table

_UNUSED = 5
"""The type of a token that no text has."""

_FLOAT_ERROR = 1e-4
"""Numbers that are float32 in the file, and the rule of Llama 3.1, which is found again from float32 factors."""


def metadata_of_config(config: ModelConfig, name: str) -> dict[str, NewValue]:
    """`name` is the model's, for people. Raises UnsupportedModelError for what is not written: where what is read from
    these keys would not be `config`."""
    family = family_named(config.family)
    written = _without_window(config, family)
    values = _keys_and_values(written, family) if _is_written(config, family) else {}
    if not values or not _is_read_as(written, family, values):
        raise UnsupportedModelError(f"a {config.family} model like this one is not written into GGUF files")
    general: dict[str, NewValue] = {
        "general.architecture": _architecture(family),
        "general.type": "model",
        "general.name": name,
        "general.quantization_version": 2,
    }
    return general | values


def gguf_notes(config: ModelConfig) -> list[str]:
    """What a GGUF file of `config` says otherwise than the model; a line each."""
    written = _without_window(config, family_named(config.family))
    if written.max_seq_len == config.max_seq_len:
        return []
    return [
        f"the context is cut from {config.max_seq_len} to {written.max_seq_len}: the model attends to a sliding window"
        f" of {written.max_seq_len}, for which GGUF files of its kind have no key"
    ]


def _is_written(config: ModelConfig, family: Family) -> bool:
    """Not what llama.cpp wants as one tensor and we have as several."""
    of = family.gguf
    if of is None or not all(isinstance(kind.mixer, Attention) for kind in config.kinds):
        return False
    kinds = ModelSpec.uniform(config, ElementType.F32).layer_kinds()
    names = [(kind, tensor.name) for kind, type_of in kinds for tensor in kind.tensors(config.dim, type_of)]
    return all(of.part_of(kind, name) is None for kind, name in names)


def _keys_and_values(config: ModelConfig, family: Family) -> dict[str, NewValue]:
    """All that the family's files have keys for; nothing where there is no rope to write."""
    attention = _full_attention(config)
    if attention is None or attention.rope is None:
        return {}
    rope, said, table = attention.rope, values_of_config(config), gguf_keys(family)
    if "moe_intermediate_size" in said and "moe_intermediate_size" not in table:
        said["intermediate_size"] = said["moe_intermediate_size"]
    values: dict[str, NewValue] = {
        key.name: key.kind(said[name]) for name, key in table.items() if name in said
    }
    values |= {
        "attention.value_length": attention.head_dim,
        "rope.freq_base": float(rope.theta),
        "rope.dimension_count": rope.n_rotated or attention.head_dim,
        "vocab_size": config.vocab_size,
        **_scaling(config, rope),
    }
    return {f"{_architecture(family)}.{key}": value for key, value in values.items()}


def values_of_config(config: ModelConfig) -> dict[str, Any]:
    """The numbers of a model by the names that most families have for them in config.json, but for its ropes."""
    mixers = [config.layer(index).mixer for index in range(config.n_layers)]
    attentions, windows = (
        [each for each in mixers if isinstance(each, Attention)],
        [each.window for each in mixers],
    )
    attention = attentions[0]
    values: dict[str, Any] = {
        "hidden_size": config.dim,
        "num_hidden_layers": config.n_layers,
        "num_attention_heads": attention.n_heads,
        "num_key_value_heads": attention.n_kv_heads,
        "head_dim": attention.head_dim,
        "max_position_embeddings": config.max_seq_len,
        "rms_norm_eps": config.norm_eps,
        "layer_norm_eps": config.norm_eps,
        "vocab_size": config.vocab_size,
    }
    feed_forwards = [kind.feed_forward for kind in config.kinds]
    for feed_forward in sorted(feed_forwards, key=lambda each: isinstance(each, Dense)):
        values |= _widths(feed_forward)
    local = next((mixer for mixer in attentions if mixer.window is not None), None)
    if local is not None:
        every = windows.index(None) + 1 if None in windows else config.n_layers + 1
        values |= {"sliding_window": local.window, "sliding_window_pattern": every}
        values |= {"rope_local_base_freq": local.rope.theta} if local.rope else {}
    return values


def _without_window(config: ModelConfig, family: Family) -> ModelConfig:
    """The same with a context no longer than its window, where all layers have one for which there is no key."""
    layer = config.kinds[0]
    mixer, window = layer.mixer, layer.mixer.window
    if len(config.kinds) > 1 or window is None or not isinstance(mixer, Attention):
        return config
    if family.gguf is None or "sliding_window" in gguf_keys(family):
        return config
    whole = dataclasses.replace(mixer, window=None)
    return dataclasses.replace(
        config,
        kinds=(dataclasses.replace(layer, mixer=whole),),
        max_seq_len=min(config.max_seq_len, window),
    )


def _is_read_as(config: ModelConfig, family: Family, values: Mapping[str, NewValue]) -> bool:
    """Whether `values` are read as `config`, but for the family's name and what floats lose."""
    factors = rope_factors(config)
    outside = {"vocab_size": config.vocab_size, "tie_word_embeddings": False}
    tensors = {tensor.name for tensor in ModelSpec.uniform(config, ElementType.F32)}
    outside |= {flag: tensor in tensors for flag, tensor in gguf_names(family).flags.items()}
    as_bytes = {} if factors is None else {ROPE_FACTORS: factors.view(np.uint8)}
    try:
        metadata = Metadata(Path("GGUF"), as_read(values))
        reader = family_of_file(metadata, _architecture(family))
        assert reader is not None
        read = model_of_metadata(metadata, reader, outside, as_bytes).config
    except (ModelFileError, UnsupportedModelError):
        return False
    return _is_close(read.to_json() | {"family": ""}, config.to_json() | {"family": ""})


def _is_close(one: Any, other: Any) -> bool:
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_is_close(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(_is_close, one, other))
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=_FLOAT_ERROR)
    return bool(one == other)


def with_unused_tokens(tokenizer: Mapping[str, NewValue], vocab_size: int) -> dict[str, NewValue]:
    """The tokenizer's keys, with a token for each row of the embedding: llama.cpp asks for as many. Raises
    TokenizerError when there are more."""
    values = dict(tokenizer)
    pieces = values.get("tokenizer.ggml.tokens")
    if not isinstance(pieces, Sequence) or len(pieces) == vocab_size:
        return values
    if len(pieces) > vocab_size:
        raise TokenizerError(
            f"the tokenizer has {len(pieces)} tokens and the model {vocab_size}, which llama.cpp does not read: take"
            " the model's own tokenizer, or convert to q40, which is a .m file"
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
    attention = _full_attention(config)
    rope = attention.rope if attention else None
    if attention is None or rope is None or not isinstance(rope.scaling, RopeScaling):
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
    if isinstance(scaling, RopeScaling) and divisors is not None and _is_one_number(divisors):
        return {"rope.scaling.type": "linear", "rope.scaling.factor": float(scaling.factor)}
    return {}


def _angles(rope: Rope, head_dim: int) -> NDArray[np.float64]:
    """[E/2]: by how much each pair turns from one position to the next."""
    cosines, sines = rope_table(Angles(rope, head_dim), 2)[1].astype(np.float64).T
    return np.asarray(np.arctan2(sines, cosines))


def _widths(feed_forward: Dense | Experts) -> dict[str, Any]:
    """Of a model of experts alone `intermediate_size` is what Qwen's config.json says, though nothing is as wide."""
    if isinstance(feed_forward, Dense):
        return {"intermediate_size": feed_forward.ffn_dim}
    return {
        "intermediate_size": feed_forward.top_k * feed_forward.expert_dim,
        "moe_intermediate_size": feed_forward.expert_dim,
        "num_experts": feed_forward.n_experts,
        "num_local_experts": feed_forward.n_experts,
        "num_experts_per_tok": feed_forward.top_k,
    }


def _full_attention(config: ModelConfig) -> Attention | None:
    """That of which the rope is written: of a layer with a rope and, if there is one, without a window."""
    attentions = [kind.mixer for kind in config.kinds if isinstance(kind.mixer, Attention)]
    turned = [mixer for mixer in attentions if mixer.rope is not None]
    return next((mixer for mixer in turned if mixer.window is None), turned[0] if turned else None)


def _architecture(family: Family) -> str:
    return gguf_names(family).architecture
