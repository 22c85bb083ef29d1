"""The feed-forward of each layer of a Hugging Face config.json: dense, or a mixture of experts."""

from __future__ import annotations

import reprlib

from dllama.checkpoint.hf.keys import HfKeys
from dllama.errors import ModelFileError
from dllama.families.table import Family
from dllama.model import Activation, Dense, Experts

_ACTIVATIONS = {
    "silu": Activation.SILU,
    "swish": Activation.SILU,
    "gelu_pytorch_tanh": Activation.GELU,
    "gelu_new": Activation.GELU,
}


def read_feed_forwards(keys: HfKeys, family: Family, n_layers: int) -> list[Dense | Experts]:
    activation = _activation(keys)
    if not family.has_experts:
        return [Dense(ffn_dim=keys.whole("intermediate_size"), activation=activation)] * n_layers
    has_new_name = keys.get("num_local_experts", None) is not None  # transformers 5 writes that one
    experts = Experts(
        n_experts=keys.whole("num_local_experts" if has_new_name else "num_experts"),
        top_k=keys.whole("num_experts_per_tok"),
        expert_dim=keys.whole("moe_intermediate_size"),
        activation=activation,
        renormalised=keys.flag("norm_topk_prob"),
    )
    is_dense = [_is_dense(keys, layer) for layer in range(n_layers)]
    if not any(is_dense):
        return [experts] * n_layers
    dense = Dense(ffn_dim=keys.whole("intermediate_size"), activation=activation)
    return [dense if of_layer else experts for of_layer in is_dense]


def _is_dense(keys: HfKeys, layer: int) -> bool:
    """As in transformers: layers that are listed, and all but every `decoder_sparse_step`-th."""
    listed = keys.get("mlp_only_layers", [])
    if not isinstance(listed, list):
        raise ModelFileError(f"{keys.path}: mlp_only_layers must be a list, not {reprlib.repr(listed)}")
    step = keys.whole("decoder_sparse_step", 1)
    if step < 1:
        raise ModelFileError(f"{keys.path}: decoder_sparse_step is {step}, which cannot be (1 or more)")
    return layer in listed or (layer + 1) % step != 0


def _activation(keys: HfKeys) -> Activation:
    name = keys.get("hidden_act", "silu")
    if not isinstance(name, str) or name not in _ACTIVATIONS:
        known = ", ".join(_ACTIVATIONS)
        raise keys.unsupported(
            f"the activation {reprlib.repr(name)} (hidden_act) is not supported; supported are {known}"
        )
    return _ACTIVATIONS[name]
