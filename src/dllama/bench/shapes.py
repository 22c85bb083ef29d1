"""Shapes of well-known models, from their published config.json, and random weights of any shape."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from dllama.checkpoint import Checkpoint, Recipe
from dllama.checkpoint.recipes import stored
from dllama.dtypes import BLOCK, ElementType, row_bytes
from dllama.errors import UsageError
from dllama.families import Activation, ModelConfig, RopeScaling, RopeStyle, tensor_specs

_LLAMA = ModelConfig(
    family="llama", dim=4096, ffn_dim=14336, n_layers=32, n_heads=32, n_kv_heads=8, head_dim=128,
    vocab_size=128256, max_seq_len=131072, norm_eps=1e-5, rope_theta=500000.0, rope_style=RopeStyle.ADJACENT,
    rope_scaling=RopeScaling(factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_seq_len=8192),
    activation=Activation.SILU, qkv_bias=False, qk_norm=False, sliding_window=None, weight_type=ElementType.Q40,
)  # fmt: skip
_QWEN3 = dataclasses.replace(
    _LLAMA, family="qwen3", rope_style=RopeStyle.HALVES, rope_theta=1e6, rope_scaling=None, qk_norm=True,
    norm_eps=1e-6, vocab_size=151936, max_seq_len=40960,
)  # fmt: skip


def _shape(
    base: ModelConfig, dim: int, ffn: int, layers: int, heads: int, kv: int, width: int, **more: int
) -> ModelConfig:
    sizes = {
        "dim": dim,
        "ffn_dim": ffn,
        "n_layers": layers,
        "n_heads": heads,
        "n_kv_heads": kv,
        "head_dim": width,
    }
    return dataclasses.replace(base, **(sizes | more))  # type: ignore[arg-type]


SHAPES: dict[str, ModelConfig] = {
    "tinyllama-1.1b": _shape(_LLAMA, 2048, 5632, 22, 32, 4, 64, vocab_size=32000, max_seq_len=16384),
    "llama-3.2-1b": _shape(_LLAMA, 2048, 8192, 16, 32, 8, 64),
    "llama-3.2-3b": _shape(_LLAMA, 3072, 8192, 28, 24, 8, 128),
    "llama-3.1-8b": _shape(_LLAMA, 4096, 14336, 32, 32, 8, 128),
    "llama-3.1-70b": _shape(_LLAMA, 8192, 28672, 80, 64, 8, 128),
    "llama-3.1-405b": _shape(_LLAMA, 16384, 53248, 126, 128, 8, 128),
    "qwen3-0.6b": _shape(_QWEN3, 1024, 3072, 28, 16, 8, 128),
    "qwen3-8b": _shape(_QWEN3, 4096, 12288, 36, 32, 8, 128),
}
"""TinyLlama was made for 2048 positions; a longer context costs nothing here."""


def shape_named(name: str, n_layers: int | None, weight_type: ElementType) -> ModelConfig:
    """The shape, trimmed to `n_layers`. Raises UsageError that lists the known ones."""
    if name not in SHAPES:
        raise UsageError(f"the shape {name} is not known; there are {', '.join(SHAPES)}", settings=("shape",))
    config = dataclasses.replace(SHAPES[name], weight_type=weight_type)
    return config if n_layers is None else dataclasses.replace(config, n_layers=n_layers)


def random_checkpoint(config: ModelConfig, seed: int = 0) -> Checkpoint:
    """Random weights of `config` that take a few MB of memory, whatever the model's size."""
    return Checkpoint(Path("random"), config, _RandomSource(config, seed))


class _RandomSource:
    """A TensorSource. Each tensor is a window that slides over a small pool of random elements: row r begins r
    blocks into it, so that rows differ and nothing is stored twice."""

    def __init__(self, config: ModelConfig, seed: int) -> None:
        self._specs = {spec.name: spec for spec in tensor_specs(config)}
        self._random = np.random.default_rng(seed)
        self._matrices: dict[tuple[int, int, ElementType], Recipe] = {}

    def recipe(self, name: str) -> Recipe:
        spec = self._specs[name]
        size = (spec.n_rows, spec.n_cols, spec.dtype)
        if size not in self._matrices:
            self._matrices[size] = self._matrix(*size)
        return self._matrices[size]

    def check(self) -> None: ...
    def check_tensor(self, name: str) -> None: ...
    def let_go(self) -> None: ...

    def close(self) -> None: ...

    def _matrix(self, n_rows: int, n_cols: int, dtype: ElementType) -> Recipe:
        pool = self._elements(n_rows * (BLOCK if dtype.is_blocked else 1) + n_cols, dtype, 1 / n_cols**0.5)
        step = row_bytes(dtype, BLOCK) if dtype.is_blocked else row_bytes(dtype, 1)
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
        n_blocks = n // BLOCK
        blocks = self._random.integers(0, 256, (n_blocks, row_bytes(dtype, BLOCK)), np.uint8)
        # The deviation of 16, of 256 equally likely numbers.
        step = scale / (4.6 if dtype is ElementType.Q40 else 74)
        blocks[:, :2] = np.full((n_blocks, 1), step, np.float16).view(np.uint8)
        return blocks.reshape(-1)
