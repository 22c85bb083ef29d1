"""Shapes of well-known models, from their published config.json, and random weights of any shape."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np

from dllama.bench.random_blocks import random_blocks
from dllama.checkpoint import Checkpoint, Recipe
from dllama.checkpoint.recipes import stored
from dllama.dtypes import ElementType, row_bytes
from dllama.errors import UsageError
from dllama.families import Keys, family_named
from dllama.model import (
    Activation,
    Attention,
    DeltaNet,
    Dense,
    Experts,
    Layer,
    ModelConfig,
    ModelSpec,
    Rope,
    RopeScaling,
    RopeStyle,
    YarnScaling,
)

_LLAMA_ROPE = Rope(
    theta=500000.0,
    style=RopeStyle.ADJACENT,
    scaling=RopeScaling(factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_seq_len=8192),
)


def _shape(
    family: str, dim: int, layer: Layer, n_layers: int, vocab_size: int, max_seq_len: int
) -> ModelConfig:
    return ModelConfig.of_layers(
        [layer] * n_layers,
        family=family,
        dim=dim,
        vocab_size=vocab_size,
        max_seq_len=max_seq_len,
        norm_eps=1e-6 if family.startswith("qwen3") else 1e-5,
    )


def _llama(
    dim: int,
    ffn: int,
    layers: int,
    heads: int,
    kv: int,
    width: int,
    vocab: int = 128256,
    length: int = 131072,
) -> ModelConfig:
    attention = Attention(n_heads=heads, n_kv_heads=kv, head_dim=width, rope=_LLAMA_ROPE)
    layer = Layer(mixer=attention, feed_forward=Dense(ffn_dim=ffn, activation=Activation.SILU))
    return _shape("llama", dim, layer, layers, vocab, length)


def _qwen3(dim: int, ffn: int, layers: int, heads: int, kv: int, width: int) -> ModelConfig:
    rope = Rope(theta=1e6, style=RopeStyle.HALVES)
    attention = Attention(n_heads=heads, n_kv_heads=kv, head_dim=width, rope=rope, qk_norm=True)
    layer = Layer(mixer=attention, feed_forward=Dense(ffn_dim=ffn, activation=Activation.SILU))
    return _shape("qwen3", dim, layer, layers, 151936, 40960)


def _gemma3(dim: int, ffn: int, layers: int, heads: int, kv: int, width: int, window: int) -> ModelConfig:
    """Five layers with a window before each that attends to all."""
    feed_forward = Dense(ffn_dim=ffn, activation=Activation.GELU)
    local, full = (
        Layer(
            mixer=Attention(
                n_heads=heads,
                n_kv_heads=kv,
                head_dim=width,
                rope=Rope(theta=theta, style=RopeStyle.HALVES),
                window=size,
                qk_norm=True,
            ),
            feed_forward=feed_forward,
            norms_after=True,
        )
        for theta, size in ((1e4, window), (1e6, None))
    )
    return ModelConfig.of_layers(
        [full if layer % 6 == 5 else local for layer in range(layers)],
        family="gemma3_text",
        dim=dim,
        vocab_size=262144,
        max_seq_len=32768 if layers < 30 else 131072,
        norm_eps=1e-6,
        embedding_scale=dim**0.5,
    )


def _qwen3_moe(
    dim: int, layers: int, heads: int, kv: int, width: int, experts: int, top_k: int, expert_dim: int
) -> ModelConfig:
    rope = Rope(theta=1e6, style=RopeStyle.HALVES)
    attention = Attention(n_heads=heads, n_kv_heads=kv, head_dim=width, rope=rope, qk_norm=True)
    mixture = Experts(
        n_experts=experts,
        top_k=top_k,
        expert_dim=expert_dim,
        activation=Activation.SILU,
        renormalised=True,
    )
    return _shape("qwen3_moe", dim, Layer(mixer=attention, feed_forward=mixture), layers, 151936, 40960)


def _gpt_oss(layers: int, experts: int) -> ModelConfig:
    """A window in every second layer."""
    scaling = YarnScaling(
        factor=32.0,
        beta_fast=32.0,
        beta_slow=1.0,
        original_max_seq_len=4096,
        attention_factor=1.3465736,
        truncate=False,
    )
    rope = Rope(theta=150000.0, style=RopeStyle.HALVES, scaling=scaling)
    mixture = Experts(
        n_experts=experts,
        top_k=4,
        expert_dim=2880,
        activation=Activation.SWIGLU_OAI,
        renormalised=True,
        router_bias=True,
        biases=True,
    )
    local, full = (
        Layer(
            mixer=Attention(
                n_heads=64,
                n_kv_heads=8,
                head_dim=64,
                rope=rope,
                window=window,
                qkv_bias=True,
                o_bias=True,
                sinks=True,
            ),
            feed_forward=mixture,
        )
        for window in (128, None)
    )
    return ModelConfig.of_layers(
        [full if layer % 2 else local for layer in range(layers)],
        family="gpt_oss",
        dim=2880,
        vocab_size=201088,
        max_seq_len=131072,
        norm_eps=1e-5,
    )


def _qwen3_5_moe(
    dim: int, layers: int, heads: int, kv: int, experts: int, top_k: int, value_heads: int
) -> ModelConfig:
    """Three of four layers are delta nets."""
    rope = Rope(theta=1e7, style=RopeStyle.HALVES, n_rotated=64)
    attention = Attention(n_heads=heads, n_kv_heads=kv, head_dim=256, rope=rope, qk_norm=True, gated=True)
    net = DeltaNet(n_key_heads=16, n_value_heads=value_heads, key_dim=128, value_dim=128, conv_width=4)
    mixture = Experts(
        n_experts=experts,
        top_k=top_k,
        expert_dim=512,
        activation=Activation.SILU,
        renormalised=True,
        shared=Dense(ffn_dim=512, activation=Activation.SILU, gated=True),
    )
    kinds = [Layer(mixer=mixer, feed_forward=mixture) for mixer in (net, net, net, attention)]
    return dataclasses.replace(
        _shape("qwen3_5_moe_text", dim, kinds[0], layers, 248320, 262144),
        kinds=(kinds[0], kinds[3]),
        layer_kinds=tuple(int(layer % 4 == 3) for layer in range(layers)),
    )


def _latent(family: str, **keys: int) -> ModelConfig:
    """By the keys of its config.json. Dense layers, which come first in the model, are last here: some layers of the
    shape are mixtures."""
    config = family_named(family).read(Keys(keys, Path(family)))
    return dataclasses.replace(config, layer_kinds=tuple(sorted(config.layer_kinds, reverse=True)))


SHAPES: dict[str, ModelConfig] = {
    "glm-4.7-flash": _latent(
        "glm4_moe_lite",
        hidden_size=2048,
        intermediate_size=10240,
        num_hidden_layers=47,
        num_attention_heads=20,
        vocab_size=154880,
    ),
    "deepseek-v3": _latent(
        "deepseek_v3",
        hidden_size=7168,
        intermediate_size=18432,
        num_hidden_layers=61,
        num_attention_heads=128,
        vocab_size=129280,
        max_position_embeddings=163840,
    ),
    "tinyllama-1.1b": _llama(2048, 5632, 22, 32, 4, 64, vocab=32000, length=16384),
    "smollm2-135m": _llama(576, 1536, 30, 9, 3, 64, vocab=49152, length=8192),
    "smollm2-1.7b": _llama(2048, 8192, 24, 32, 32, 64, vocab=49152, length=8192),
    "mistral-7b": _llama(4096, 14336, 32, 32, 8, 128, vocab=32768, length=32768),
    "llama-3.2-1b": _llama(2048, 8192, 16, 32, 8, 64),
    "llama-3.2-3b": _llama(3072, 8192, 28, 24, 8, 128),
    "llama-3.1-8b": _llama(4096, 14336, 32, 32, 8, 128),
    "llama-3.1-70b": _llama(8192, 28672, 80, 64, 8, 128),
    "llama-3.1-405b": _llama(16384, 53248, 126, 128, 8, 128),
    "qwen3-0.6b": _qwen3(1024, 3072, 28, 16, 8, 128),
    "qwen3-4b": _qwen3(2560, 9728, 36, 32, 8, 128),
    "qwen3-8b": _qwen3(4096, 12288, 36, 32, 8, 128),
    "qwen3-14b": _qwen3(5120, 17408, 40, 40, 8, 128),
    "qwen3-32b": _qwen3(5120, 25600, 64, 64, 8, 128),
    "gemma-3-1b": _gemma3(1152, 6912, 26, 4, 1, 256, 512),
    "gemma-3-4b": _gemma3(2560, 10240, 34, 8, 4, 256, 1024),
    "gemma-3-12b": _gemma3(3840, 15360, 48, 16, 8, 256, 1024),
    "gemma-3-27b": _gemma3(5376, 21504, 62, 32, 16, 128, 1024),
    "gpt-oss-20b": _gpt_oss(24, 32),
    "gpt-oss-120b": _gpt_oss(36, 128),
    "qwen3.6-35b-a3b": _qwen3_5_moe(2048, 40, 16, 2, 256, 8, 32),
    "qwen3-30b-a3b": _qwen3_moe(2048, 48, 32, 4, 128, 128, 8, 768),
    "qwen3-235b-a22b": _qwen3_moe(4096, 94, 64, 4, 128, 128, 8, 1536),
}
"""TinyLlama was made for 2048 positions; a longer context costs nothing here."""


def shape_named(
    name: str, n_layers: int | None, weight_type: ElementType, n_experts: int | None = None
) -> ModelSpec:
    """The shape, trimmed to `n_layers`, and its mixtures to `n_experts`. Raises UsageError that lists the known ones,
    or where so few cannot be."""
    if name not in SHAPES:
        raise UsageError(f"the shape {name} is not known; there are {', '.join(SHAPES)}", settings=("shape",))
    config = SHAPES[name]
    if n_layers is not None:
        kinds = itertools.islice(itertools.cycle(config.layer_kinds), n_layers)
        config = dataclasses.replace(config, layer_kinds=tuple(kinds))
    if n_experts is not None:
        config = _with_experts(config, name, n_experts)
    return ModelSpec.uniform(config, weight_type)


def _with_experts(config: ModelConfig, name: str, n_experts: int) -> ModelConfig:
    def trimmed(layer: Layer) -> Layer:
        if not isinstance(layer.feed_forward, Experts):
            return layer
        return dataclasses.replace(
            layer, feed_forward=dataclasses.replace(layer.feed_forward, n_experts=n_experts)
        )

    config = dataclasses.replace(config, kinds=tuple(map(trimmed, config.kinds)))
    fault = config.fault()
    if fault is not None:
        raise UsageError(f"{n_experts} experts are no {name}: {fault}", settings=("experts",))
    return config


def random_checkpoint(model: ModelSpec, seed: int = 0) -> Checkpoint:
    """Random weights of `model` that take a few MB of memory, whatever its size."""
    return Checkpoint(Path("random"), model, _RandomSource(model, seed))


class _RandomSource:
    """A TensorSource. Each tensor is a window that slides over a small pool of random elements: row r begins r
    blocks into it, so that rows differ and nothing is stored twice."""

    def __init__(self, model: ModelSpec, seed: int) -> None:
        self._tensors = {tensor.name: tensor for tensor in model}
        self._random = np.random.default_rng(seed)
        self._matrices: dict[tuple[int, int, ElementType], Recipe] = {}

    def recipe(self, name: str) -> Recipe:
        tensor = self._tensors[name]
        size = (tensor.stacked_rows, tensor.n_cols, tensor.dtype)
        if size not in self._matrices:
            self._matrices[size] = self._matrix(*size)
        return self._matrices[size]

    def check(self) -> None: ...
    def check_of(self, name: str) -> Callable[[], None]:
        return self.check

    def let_go(self) -> None: ...

    def close(self) -> None: ...

    def _matrix(self, n_rows: int, n_cols: int, dtype: ElementType) -> Recipe:
        pool = self._elements(n_rows * dtype.block + n_cols, dtype, 1 / n_cols**0.5)
        step = dtype.block_bytes
        shape = (n_rows, row_bytes(dtype, n_cols))
        rows = np.lib.stride_tricks.as_strided(pool, shape, (step, 1), writeable=False)
        return stored(rows, n_cols, dtype, "random weights")

    def _elements(
        self, n: int, dtype: ElementType, scale: float
    ) -> np.ndarray[tuple[int], np.dtype[np.uint8]]:
        """uint8, random elements with a standard deviation of about `scale`."""
        if not dtype.is_blocked:
            values = self._random.standard_normal(n, np.float32) * np.float32(scale)
            if dtype is ElementType.F16:
                return values.astype(np.float16).view(np.uint8)
            # What is float32 here (norms, the embedding) was bf16 when it was published.
            return (values.view(np.uint32) & 0xFFFF0000).view(np.uint8)
        blocks = random_blocks(self._random, dtype, n // dtype.block, scale)
        return blocks.reshape(-1)
