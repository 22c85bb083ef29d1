"""Small models of any layers with random weights, and what they compute, in plain NumPy and float64."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dllama.checkpoint import Checkpoint
from dllama.checkpoint.recipes import Recipe, stored
from dllama.dtypes import ElementType
from dllama.kernels import delta_oracle, oracle
from dllama.model import Activation, Attention, DeltaNet, Dense, ModelConfig, ModelSpec
from dllama.model.rope import rope_table
from dllama.sharding import Tensor

Array = NDArray[np.float64]


class RandomSource:
    """A TensorSource of float32 numbers that are all as they are in the type that the tensor has in memory."""

    def __init__(self, model: ModelSpec, seed: int) -> None:
        random = np.random.default_rng(seed)
        self.values = {tensor.name: _values(random, tensor) for tensor in model}

    def recipe(self, name: str) -> Recipe:
        values = self.values[name]
        return stored(values.view(np.uint8), values.shape[1], ElementType.F32, name)

    def check(self) -> None: ...
    def check_of(self, name: str) -> Callable[[], None]:
        return self.check

    def let_go(self) -> None: ...
    def close(self) -> None: ...


def random_model(model: ModelSpec, seed: int = 0) -> tuple[Checkpoint, RandomSource]:
    source = RandomSource(model, seed)
    return Checkpoint(Path("random"), model, source), source


def logits_of(config: ModelConfig, source: RandomSource, ids: list[int]) -> Array:
    """[T, V] of one sequence."""
    weights = {name: values.astype(np.float64) for name, values in source.values.items()}
    x = weights["embedding"][ids] * config.embedding_scale
    for index in range(config.n_layers):
        layer = config.layer(index)
        of = {
            name.removeprefix(f"layers.{index}."): values
            for name, values in weights.items()
            if name.startswith(f"layers.{index}.")
        }
        normed = _norm(x, "attention_norm", of, config.norm_eps)
        if isinstance(layer.mixer, DeltaNet):
            mixed = _delta_net(layer.mixer, of, normed, config)
        else:
            mixed = _attention(layer.mixer, of, normed, config)
        if layer.norms_after:
            mixed = _norm(mixed, "post_attention_norm", of, config.norm_eps)
        x = x + mixed
        out = _dense(layer.feed_forward, of, _norm(x, "ffn_norm", of, config.norm_eps))
        if layer.norms_after:
            out = _norm(out, "post_ffn_norm", of, config.norm_eps)
        x = x + out
    logits = _norm(x, "final_norm", weights, config.norm_eps) @ weights["head"].T
    return oracle.soft_cap(logits, config.logit_scale, config.logit_soft_cap or 0.0)


def _norm(x: Array, name: str, of: dict[str, Array], eps: float) -> Array:
    bias = of.get(f"{name}_bias")
    if bias is None:
        return oracle.rms_norm(x, of[name][0], eps)
    return oracle.layer_norm(x, of[name][0], bias[0], eps)


def _attention(kind: Attention, of: dict[str, Array], x: Array, config: ModelConfig) -> Array:
    n, width = len(x), kind.head_dim
    heads = {part: (x @ of[part].T + of.get(f"{part}_bias", [0])[0]).reshape(n, -1, width) for part in "qkv"}
    for part in "qk":
        if kind.qk_norm:
            heads[part] = oracle.rms_norm(heads[part], of[f"{part}_norm"][0], config.norm_eps)
        if kind.rope is not None:
            table = rope_table(kind.angles._replace(factor=1.0), n)
            heads[part] = oracle.rope(heads[part], table, kind.n_halves)
    key, value = (np.repeat(heads[part], kind.group, axis=1) for part in "kv")
    scale = width**-0.5 if kind.scale is None else kind.scale
    scores = np.einsum("the,she->hts", heads["q"], key)
    scores = oracle.soft_cap(scores, scale, kind.soft_cap or 0.0)
    distance = np.arange(n)[:, None] - np.arange(n)[None, :]
    scores = np.where((distance >= 0) & (distance < (kind.window or n)), scores, -np.inf)
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    weights /= weights.sum(axis=-1, keepdims=True)
    mixed = np.einsum("hts,she->the", weights, value).reshape(n, -1)
    if kind.gated:
        mixed = mixed * delta_oracle.sigmoid(x @ of["q_gate"].T)
    return mixed @ of["o"].T + of.get("o_bias", [0])[0]  # type: ignore[no-any-return]


def _dense(kind: Dense, of: dict[str, Array], x: Array) -> Array:
    gate_up = np.concatenate([x @ of["gate"].T, x @ of["up"].T], axis=1)
    assert kind.activation in Activation
    out = oracle.gated(gate_up, kind.activation) @ of["down"].T
    return out * delta_oracle.sigmoid(x @ of["out_gate"].T) if kind.gated else out


def _delta_net(kind: DeltaNet, of: dict[str, Array], x: Array, config: ModelConfig) -> Array:
    """By the chunked form, all rows at once."""
    n = len(x)
    convolved = {}
    for part in "qkv":
        rows, before = x @ of[f"delta_{part}"].T, np.zeros((kind.conv_width - 1, of[f"conv_{part}"].shape[1]))
        convolved[part], _ = delta_oracle.causal_conv(rows, of[f"conv_{part}"], before)
    keys = {
        part: convolved[part].reshape(n, kind.n_key_heads, -1).repeat(kind.group, axis=1) for part in "qk"
    }
    values = convolved["v"].reshape(n, kind.n_value_heads, -1)
    decay = delta_oracle.decay_of(x @ of["delta_alpha"].T, of["log_rate"][0], of["dt_bias"][0])
    strength = delta_oracle.sigmoid(x @ of["delta_beta"].T)
    state = np.zeros((kind.n_value_heads, kind.key_dim, kind.value_dim))
    read, _ = delta_oracle.delta_rule_of_chunk(keys["q"], keys["k"], values, decay, strength, state)
    normed = oracle.rms_norm(read, of["delta_norm"][0], config.norm_eps).reshape(n, -1)
    return (normed * delta_oracle.silu(x @ of["delta_z"].T)) @ of["delta_out"].T  # type: ignore[no-any-return]


def _values(random: np.random.Generator, tensor: Tensor) -> NDArray[np.float32]:
    """[all rows, n_cols]"""
    values = random.standard_normal((tensor.stacked_rows, tensor.n_cols), np.float32)
    if tensor.name.endswith("norm"):
        return 1 + values / 4
    if tensor.is_vector:
        return values / 4
    if tensor.name != "embedding":
        values /= np.float32(tensor.n_cols**0.5)
    return oracle.decode(tensor.dtype, oracle.encode(tensor.dtype, values), tensor.n_cols)
