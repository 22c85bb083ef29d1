"""The tensors of a model: names, shapes and element types, in the order of the `.m` file."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from dllama.dtypes import BLOCK, ElementType, row_bytes
from dllama.families.config import ModelConfig


@dataclasses.dataclass(frozen=True)
class TensorSpec:
    """A matrix `[n_rows, n_cols]` that maps n_cols inputs to n_rows outputs; a vector has one row."""

    name: str
    n_rows: int
    n_cols: int
    dtype: ElementType

    @property
    def row_bytes(self) -> int:
        return row_bytes(self.dtype, self.n_cols)

    @property
    def n_elements(self) -> int:
        return self.n_rows * self.n_cols

    @property
    def n_bytes(self) -> int:
        return self.n_rows * self.row_bytes

    @property
    def fits_blocks(self) -> bool:
        """False when rows of a blocked type are not whole blocks; row_bytes and n_bytes assert it."""
        return not self.dtype.is_blocked or self.n_cols % BLOCK == 0


def tensor_specs(config: ModelConfig) -> list[TensorSpec]:
    """All tensors of `config` in the order of the `.m` file (docs/formats.md).

    Matrices have the config's weight type; the embedding, the biases and the norms are F32. Rows of q and k
    are in the order of `config.rope_style`. The head is always listed, also where it is the embedding's copy.
    """
    specs = [_f32("embedding", config.vocab_size, config.dim)]
    for layer in range(config.n_layers):
        specs.extend(_layer_specs(config, f"layers.{layer}."))
    specs.append(_f32("final_norm", 1, config.dim))
    specs.append(TensorSpec("head", config.vocab_size, config.dim, config.weight_type))
    return specs


def _layer_specs(config: ModelConfig, prefix: str) -> Iterator[TensorSpec]:
    def matrix(name: str, n_rows: int, n_cols: int) -> TensorSpec:
        return TensorSpec(prefix + name, n_rows, n_cols, config.weight_type)

    def vector(name: str, n: int) -> TensorSpec:
        return _f32(prefix + name, 1, n)

    query_dim, kv_dim = config.n_heads * config.head_dim, config.n_kv_heads * config.head_dim
    yield matrix("q", query_dim, config.dim)
    yield matrix("k", kv_dim, config.dim)
    yield matrix("v", kv_dim, config.dim)
    if config.qkv_bias:
        yield vector("q_bias", query_dim)
        yield vector("k_bias", kv_dim)
        yield vector("v_bias", kv_dim)
    yield matrix("o", config.dim, query_dim)
    yield matrix("gate", config.ffn_dim, config.dim)
    yield matrix("down", config.dim, config.ffn_dim)
    yield matrix("up", config.ffn_dim, config.dim)
    if config.qk_norm:
        yield vector("q_norm", config.head_dim)
        yield vector("k_norm", config.head_dim)
    yield vector("attention_norm", config.dim)
    yield vector("ffn_norm", config.dim)


def _f32(name: str, n_rows: int, n_cols: int) -> TensorSpec:
    return TensorSpec(name, n_rows, n_cols, ElementType.F32)
