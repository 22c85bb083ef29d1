"""The metadata of a GGUF file becomes a ModelConfig, by way of the names that config.json has for the same numbers.

Keys, their meaning and what llama.cpp takes for those that are absent: docs/gguf.md of github.com/ggml-org/ggml, and
`load_hparams` of github.com/ggml-org/llama.cpp.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np

from dllama.checkpoint.gguf.names import FAMILY_OF, ROPE_FACTORS, gguf_name
from dllama.checkpoint.gguf.rope import rope_values
from dllama.checkpoint.hf.config import HfModel, model_from_hf
from dllama.errors import ModelFileError, UnsupportedModelError
from dllama.formats.gguf import GgufFile, Metadata, Texts
from dllama.model import shortest_float32
from dllama.plain_text import LONGEST_NAME, plain_line

_WITH_EXPERTS = ("qwen3moe",)
"""Architectures in which experts are in their place."""

_NEUTRAL: Mapping[str, tuple[Any, ...]] = MappingProxyType(
    {
        "expert_count": (0,),
        "attention.scale": (0.0,),
        "attention.causal": (True,),
        "attention.clamp_kqv": (0.0,),
        "attention.max_alibi_bias": (0.0,),
        "attn_logit_softcapping": (0.0,),
        "final_logit_softcapping": (0.0,),
        "logit_scale": (0.0, 1.0),
        "residual_scale": (0.0, 1.0),
        "embedding_scale": (0.0, 1.0),
        "use_parallel_residual": (False,),
        "attention.layer_norm_epsilon": (),
        "attention.shared_kv_layers": (0,),
        "nextn_predict_layers": (0,),
    }
)
"""Keys that change what is computed, and the values with which they do not."""

_GEMMA3_27B_LAYERS = 62

_NO_MODELS: Mapping[str, str] = MappingProxyType(
    {
        "adapter": "is an adapter (LoRA), not a model; merge it into its base model first",
        "controlvector": "is a control vector, not a model; give the model's own file",
        "imatrix": "is an importance matrix, not a model; give the model's own file",
        "mmproj": "is the part of a model that sees or hears (mmproj); give the file of its language model",
        "clip": "is the part of a model that sees or hears (mmproj); give the file of its language model",
    }
)
"""By `general.type`, or by the architecture where that is not said."""


@dataclasses.dataclass(frozen=True)
class Keys:
    """The keys of one architecture, without its name before them."""

    metadata: Metadata
    architecture: str

    def name(self, key: str) -> str:
        return f"{self.architecture}.{key}"

    def whole(self, key: str, default: int | None = None) -> int:
        """Also of a list that says the same for every layer. Raises UnsupportedModelError where layers differ."""
        name = self.name(key)
        value = self.metadata.get(name)
        if isinstance(value, np.ndarray):
            distinct = np.unique(value)
            if len(distinct) != 1 or distinct.dtype.kind not in "iu":
                raise UnsupportedModelError(
                    f"{self.metadata.path}: {name} differs between layers, which is not supported"
                )
            return int(distinct[0])
        if value is None and default is not None:
            return default
        return self.metadata.need(name, int)

    def number(self, key: str, default: float | None = None) -> float:
        """As the shortest decimal number of those that are the same float32."""
        name = self.name(key)
        value = self.metadata.find(name, float)
        if value is None and default is not None:
            return default
        return shortest_float32(self.metadata.need(name, float))


def read_gguf_config(file: GgufFile) -> HfModel:
    """The model that the metadata describes.

    Raises ModelFileError when a key is missing or cannot be, UnsupportedModelError when it asks for what dllama does
    not do; both name the file and the key.
    """
    metadata = file.metadata
    for key in ("general.type", "general.architecture"):
        what = _NO_MODELS.get(metadata.find(key, str) or "")
        if what is not None:
            raise UnsupportedModelError(f"{file.path}: {what}")
    architecture = metadata.need("general.architecture", str)
    if architecture not in FAMILY_OF:
        known = ", ".join(FAMILY_OF)
        raise UnsupportedModelError(
            f"{file.path}: the architecture {plain_line(repr(architecture), LONGEST_NAME)} is not known; known are"
            f" {known}"
        )
    keys = Keys(metadata, architecture)
    _refuse_what_would_be_missed(keys)
    return model_from_hf(_values(file, keys), file.path)


def _values(file: GgufFile, keys: Keys) -> dict[str, Any]:
    """By the names of config.json. All that families take for granted there is said."""
    family = FAMILY_OF[keys.architecture]
    dim, n_heads = keys.whole("embedding_length"), keys.whole("attention.head_count")
    head_dim = keys.whole("attention.key_length", dim // max(n_heads, 1))
    if keys.whole("attention.value_length", head_dim) != head_dim:
        raise UnsupportedModelError(
            f"{file.path}: {keys.name('attention.value_length')} differs from the width of keys, {head_dim}, which is"
            " not supported"
        )
    max_seq_len = keys.whole("context_length")
    values = {
        "model_type": family,
        "hidden_size": dim,
        "intermediate_size": keys.whole("feed_forward_length"),
        "num_hidden_layers": keys.whole("block_count"),
        "num_attention_heads": n_heads,
        "num_key_value_heads": keys.whole("attention.head_count_kv", n_heads),
        "head_dim": head_dim,
        "vocab_size": _vocab_size(file, gguf_name(family, "embedding")),
        "max_position_embeddings": max_seq_len,
        "rms_norm_eps": keys.number("attention.layer_norm_rms_epsilon"),
        "tie_word_embeddings": gguf_name(family, "head") not in file.tensors,
    }
    if keys.whole("expert_count", 0) > 0:
        values |= _expert_values(keys)
    factors = None
    if ROPE_FACTORS in file.tensors:
        factors = file.bytes_of(ROPE_FACTORS)
    values |= rope_values(keys, max_seq_len, head_dim, factors)
    if family == "gemma3_text":
        values |= _gemma3_values(keys, values)
    return values


def _gemma3_values(keys: Keys, values: Mapping[str, Any]) -> dict[str, Any]:
    """As llama.cpp takes it: the scaling of the rope is that of layers without a window, each sixth; the model of 62
    layers (27B) alone has another scale of attention."""
    dim, n_heads = values["hidden_size"], values["num_attention_heads"]
    has_other_scale = values["num_hidden_layers"] == _GEMMA3_27B_LAYERS
    return {
        "query_pre_attn_scalar": dim // max(n_heads, 1) if has_other_scale else values["head_dim"],
        "sliding_window": keys.whole("attention.sliding_window"),
        "sliding_window_pattern": keys.whole("attention.sliding_window_pattern", 6),
        "rope_local_base_freq": keys.number("rope.freq_base_swa", 1e4),
    }


def _expert_values(keys: Keys) -> dict[str, Any]:
    """What llama.cpp takes for granted: that the weights of the chosen experts sum to 1."""
    return {
        "num_experts": keys.whole("expert_count"),
        "num_experts_per_tok": keys.whole("expert_used_count"),
        "moe_intermediate_size": keys.whole("expert_feed_forward_length"),
        "norm_topk_prob": True,
    }


def _vocab_size(file: GgufFile, embedding: str) -> int:
    if embedding not in file.tensors:
        raise ModelFileError(f"{file.path}: has no tensor {embedding}; it is no model, or a part of one")
    return file.tensors[embedding].shape[0]


def _refuse_what_would_be_missed(keys: Keys) -> None:
    for key, neutral in _NEUTRAL.items():
        if key == "expert_count" and keys.architecture in _WITH_EXPERTS:
            continue
        value = keys.metadata.get(keys.name(key))
        if value is not None and (isinstance(value, np.ndarray | Texts) or value not in neutral):
            shown = (
                "a list" if isinstance(value, np.ndarray | Texts) else plain_line(repr(value), LONGEST_NAME)
            )
            raise UnsupportedModelError(
                f"{keys.metadata.path}: {keys.name(key)} is {shown}, which is not supported; without it the answers"
                " would be wrong"
            )
