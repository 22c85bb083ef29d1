"""The weights of one rank, packed for its instruction set as the bytes arrive."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dllama.errors import NumericalError
from dllama.families import ModelConfig
from dllama.kernels import BoundArray, Compute, PackedMatrix
from dllama.sharding import RankSpans, Shard, rank_shards

Vector = BoundArray
Bytes = NDArray[np.uint8]


@dataclasses.dataclass(frozen=True, kw_only=True)
class LayerWeights:
    """One layer; vectors are float32. Matrices that share an input are one matrix: q, k, v stacked by rows; gate and
    up likewise."""

    attention_norm: Vector  # [D]
    qkv: PackedMatrix  # [(H_local + 2 K_local) E, D]
    qkv_bias: Vector | None  # [(H_local + 2 K_local) E]
    q_norm: Vector | None  # [E]
    k_norm: Vector | None  # [E]
    o: PackedMatrix  # [D, H_local E]
    ffn_norm: Vector  # [D]
    gate_up: PackedMatrix  # [2 F_local, D]
    down: PackedMatrix  # [D, F_local]


class ModelWeights:
    """Memory for everything that one rank holds, filled shard by shard with `put`."""

    def __init__(self, compute: Compute, config: ModelConfig, spans: RankSpans) -> None:
        self.shards: list[Shard] = rank_shards(config, spans)
        self._places: dict[str, Callable[[int, Bytes], bool]] = {}
        q_rows = len(spans.heads) * config.head_dim
        kv_rows = len(spans.kv_heads) * config.head_dim
        n_ffn = len(spans.ffn)

        def matrix(n_out: int, n_in: int, **parts: int) -> PackedMatrix:
            """Memory for the named tensors, each from its first row on."""
            packed = PackedMatrix(compute, config.weight_type, n_out, n_in)
            for name, first in parts.items():
                self._places[prefix + name] = _matrix_place(packed, first)
            return packed

        def vector(n: int, **parts: int) -> Vector:
            values = np.zeros(n, np.float32)
            for name, first in parts.items():
                self._places[prefix + name] = _vector_place(values, first)
            return BoundArray(values)

        self.layers: list[LayerWeights] = []
        for layer in range(config.n_layers):
            prefix = f"layers.{layer}."
            qkv_parts = {"q": 0, "k": q_rows, "v": q_rows + kv_rows}
            bias_parts = {f"{name}_bias": first for name, first in qkv_parts.items()}
            n_qkv = q_rows + 2 * kv_rows
            self.layers.append(
                LayerWeights(
                    attention_norm=vector(config.dim, attention_norm=0),
                    qkv=matrix(n_qkv, config.dim, **qkv_parts),
                    qkv_bias=vector(n_qkv, **bias_parts) if config.qkv_bias else None,
                    q_norm=vector(config.head_dim, q_norm=0) if config.qk_norm else None,
                    k_norm=vector(config.head_dim, k_norm=0) if config.qk_norm else None,
                    o=matrix(config.dim, q_rows, o=0),
                    ffn_norm=vector(config.dim, ffn_norm=0),
                    gate_up=matrix(2 * n_ffn, config.dim, gate=0, up=n_ffn),
                    down=matrix(config.dim, n_ffn, down=0),
                )
            )
        prefix = ""
        self.final_norm: Vector = vector(config.dim, final_norm=0)
        self.head: PackedMatrix = matrix(len(spans.vocab), config.dim, head=0)  # [V_local, D]

    def put(self, shard: Shard, first_row: int, rows: Bytes) -> None:
        """Packs `rows` [n, shard.row_bytes] uint8, the shard's rows from `first_row` (0 is its first).

        Raises NumericalError naming the tensor when one of them is NaN or infinite. Disjoint runs of rows may
        be put from several threads.
        """
        if not self._places[shard.name](first_row, rows):
            raise NumericalError(
                f"tensor {shard.name} holds NaN or infinity: the model's files are damaged, get them again"
            )

    def close(self) -> None:
        """Gives the memory back; to be called once, when nobody uses the weights any more."""
        self.layers.clear()
        self._places.clear()
        del self.final_norm, self.head


def _matrix_place(packed: PackedMatrix, first: int) -> Callable[[int, Bytes], bool]:
    return lambda row, rows: packed.pack(first + row, rows)


def _vector_place(values: NDArray[np.float32], first: int) -> Callable[[int, Bytes], bool]:
    def place(row: int, rows: NDArray[Any]) -> bool:
        assert row == 0, "a vector is one row"
        part = np.ascontiguousarray(rows).reshape(-1).view(np.float32)
        values[first : first + len(part)] = part
        return bool(np.isfinite(part).all())

    return place
