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
from numpy.typing import NDArray

from dllama.checkpoint.gguf.names import (
    ROPE_FACTORS,
    SHORT_FACTORS,
    family_of_file,
    gguf_keys,
    gguf_name,
    gguf_names,
    known_architectures,
)
from dllama.checkpoint.gguf.rope import rope_values
from dllama.checkpoint.hf.config import HfModel, model_from_hf
from dllama.errors import ModelFileError, UnsupportedModelError
from dllama.families import NEEDED, Family, GgufKey
from dllama.formats.gguf import GgufFile, Metadata, Texts
from dllama.model import shortest_float32
from dllama.plain_text import LONGEST_NAME, plain_line

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
        "attention.temperature_scale": (0.0,),
        "expert_gating_func": (0, 1),
        "expert_group_count": (0, 1),
        "expert_shared_count": (0,),
        "expert_weights_norm": (True,),
        "expert_weights_scale": (0.0, 1.0),
        "interleave_moe_layer_step": (0, 1),
        "leading_dense_block_count": (0,),
        "nextn_predict_layers": (0,),
        "rope.scaling.yarn_log_multiplier": (0.0,),
    }
)
"""Keys that change what is computed, and the values with which they do not. A family that has such a key in its table
(`GgufNames.keys`) says what it means there."""

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

    def value(self, key: GgufKey) -> Any:
        """Of the kind that the key says; None where the file has none, and llama.cpp takes nothing for it."""
        name, has_default = self.name(key.name), key.default is not NEEDED
        if has_default and self.metadata.get(name) is None:
            return key.default
        if key.kind is int:
            return self.whole(key.name)
        if key.kind is float:
            return self.number(key.name)
        if key.kind is list:
            return self.metadata.need(name, np.ndarray).tolist()
        return self.metadata.need(name, key.kind)


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
    family = family_of_file(metadata, architecture)
    if family is None:
        known = ", ".join(known_architectures())
        raise UnsupportedModelError(
            f"{file.path}: the architecture {plain_line(repr(architecture), LONGEST_NAME)} is not known; known are"
            f" {known}"
        )
    embedding, has_head = gguf_name(family, "embedding"), gguf_name(family, "head") in file.tensors
    if embedding not in file.tensors:
        raise ModelFileError(f"{file.path}: has no tensor {embedding}; it is no model, or a part of one")
    outside = {"vocab_size": file.tensors[embedding].shape[0], "tie_word_embeddings": not has_head}
    flags = gguf_names(family).flags.items()
    outside |= {flag: gguf_name(family, tensor) in file.tensors for flag, tensor in flags}
    tables = (ROPE_FACTORS, SHORT_FACTORS)
    factors = {name: file.bytes_of(name) for name in tables if name in file.tensors}
    return model_of_metadata(metadata, family, outside, factors)


def model_of_metadata(
    metadata: Metadata, family: Family, outside: Mapping[str, Any], factors: Mapping[str, NDArray[np.uint8]]
) -> HfModel:
    """The model of this family that the metadata describes. `outside` is what tensors say of it, by config.json's
    names, `factors` the bytes of ROPE_FACTORS and SHORT_FACTORS. Raises as above."""
    keys = Keys(metadata, gguf_names(family).architecture)
    table = gguf_keys(family)
    known = {key.name for key in table.values()} | {*gguf_names(family).ignored}
    _refuse_what_would_be_missed(keys, known)
    read = {name: keys.value(key) for name, key in table.items()}
    values = {name: value for name, value in read.items() if value is not None}
    n_heads, dim = values["num_attention_heads"], values["hidden_size"]
    values = {"num_key_value_heads": n_heads, "head_dim": dim // max(n_heads, 1), **values}
    head_dim = values["head_dim"]
    if "attention.value_length" not in known and keys.whole("attention.value_length", head_dim) != head_dim:
        raise UnsupportedModelError(
            f"{metadata.path}: {keys.name('attention.value_length')} differs from the width of keys, {head_dim}, which"
            " is not supported"
        )
    values |= {"model_type": family.name, **outside, **gguf_names(family).implied}
    values |= rope_values(keys, values["max_position_embeddings"], head_dim, factors)
    return model_from_hf(values | dict(gguf_names(family).derived(values)), metadata.path)


def _refuse_what_would_be_missed(keys: Keys, known: set[str]) -> None:
    for key, neutral in _NEUTRAL.items():
        value = None if key in known else keys.metadata.get(keys.name(key))
        if value is not None and (isinstance(value, np.ndarray | Texts) or value not in neutral):
            shown = (
                "a list" if isinstance(value, np.ndarray | Texts) else plain_line(repr(value), LONGEST_NAME)
            )
            raise UnsupportedModelError(
                f"{keys.metadata.path}: {keys.name(key)} is {shown}, which is not supported; without it the answers"
                " would be wrong"
            )
