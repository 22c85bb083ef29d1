"""Which rows and columns of each tensor belong to one rank."""

from __future__ import annotations

import dataclasses

from dllama.dtypes import row_bytes
from dllama.families import ModelConfig, TensorSpec, tensor_specs
from dllama.sharding.spans import RankSpans, Span


@dataclasses.dataclass(frozen=True)
class Shard:
    """Rows and columns of the tensor `spec` that one rank holds."""

    spec: TensorSpec
    rows: Span
    cols: Span

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def row_bytes(self) -> int:
        return row_bytes(self.spec.dtype, len(self.cols))

    @property
    def n_bytes(self) -> int:
        return len(self.rows) * self.row_bytes


def rank_shards(config: ModelConfig, spans: RankSpans) -> list[Shard]:
    """The shards of one rank, in the order of the file. The embedding stays with the root's file: no shard."""
    width = config.head_dim
    heads = Span(spans.heads.start * width, spans.heads.stop * width)
    kv_heads = Span(spans.kv_heads.start * width, spans.kv_heads.stop * width)
    cut_rows = {
        "q": heads, "k": kv_heads, "v": kv_heads, "gate": spans.ffn, "up": spans.ffn, "head": spans.vocab,
    }  # fmt: skip
    cut_cols = {
        "o": heads, "down": spans.ffn, "q_bias": heads, "k_bias": kv_heads, "v_bias": kv_heads,
    }  # fmt: skip
    shards = []
    for spec in tensor_specs(config):
        kind = spec.name.rpartition(".")[2]
        if kind != "embedding":
            rows = cut_rows.get(kind, Span(0, spec.n_rows))
            shards.append(Shard(spec, rows, cut_cols.get(kind, Span(0, spec.n_cols))))
    return shards


def shard_bytes(config: ModelConfig, spans: RankSpans) -> int:
    """Bytes of all weights that one rank holds."""
    return sum(shard.n_bytes for shard in rank_shards(config, spans))
