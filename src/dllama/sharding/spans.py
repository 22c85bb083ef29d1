"""Spans for each rank, for any number of nodes and any weights (docs/architecture.md, "Spans").

A rank owns whole query heads, the KV heads that those use, FFN columns and vocabulary rows. Where a span's edge
cuts a KV head's group, both neighbours hold that KV head.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from dllama.dtypes import BLOCK
from dllama.errors import UsageError
from dllama.families import ModelConfig


@dataclasses.dataclass(frozen=True)
class Span:
    """The half-open range [start, stop)."""

    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start


@dataclasses.dataclass(frozen=True, kw_only=True)
class RankSpans:
    """What one rank owns. `kv_heads` follows from `heads`."""

    heads: Span
    kv_heads: Span
    ffn: Span
    vocab: Span


@dataclasses.dataclass(frozen=True)
class ShardPlan:
    """The spans of all ranks, in rank order; heads, FFN columns and vocabulary rows are each covered once."""

    ranks: tuple[RankSpans, ...]

    @property
    def n_ranks(self) -> int:
        return len(self.ranks)

    def to_json(self) -> list[dict[str, list[int]]]:
        return [{name: [span.start, span.stop] for name, span in vars(spans).items()} for spans in self.ranks]

    @classmethod
    def from_json(cls, values: list[dict[str, Any]]) -> ShardPlan:
        """The inverse of to_json. Raises KeyError, TypeError or ValueError on anything else."""
        return cls(
            tuple(
                RankSpans(
                    **{name: Span(_index(start), _index(stop)) for name, (start, stop) in spans.items()}
                )
                for spans in values
            )
        )


def plan_spans(config: ModelConfig, shares: Sequence[float]) -> ShardPlan:
    """Spans in proportion to `shares` (root first; only their ratios matter).

    Every rank gets at least one unit of each kind. Raises UsageError when there are more ranks than units, or
    when a share is not a positive number.
    """
    if not shares or any(not math.isfinite(share) or share <= 0 for share in shares):
        raise UsageError(
            f"shares are positive numbers, one for each node, not {_spaced(shares)}", settings=("shares",)
        )
    limit = largest_node_count(config)
    if len(shares) > limit:
        raise UsageError(
            f"{len(shares)} nodes cannot share this {config.family} model ({config.n_heads} heads, "
            f"{config.ffn_dim} FFN columns in {config.weight_type.label}): it can be split over 1 to {limit} nodes"
        )
    heads = _split(config.n_heads, _head_unit(config), shares)
    ffn = _split(config.ffn_dim, _column_unit(config, config.ffn_dim, len(shares)), shares)
    vocab = _split(config.vocab_size, _row_unit(config.vocab_size, len(shares)), shares)
    return ShardPlan(
        tuple(
            RankSpans(
                heads=h,
                kv_heads=Span(h.start // config.group, -(-h.stop // config.group)),
                ffn=f,
                vocab=v,
            )
            for h, f, v in zip(heads, ffn, vocab, strict=True)
        )
    )


def largest_node_count(config: ModelConfig) -> int:
    """The most nodes that this model can be split over: one unit of heads and of FFN columns each."""
    ffn_unit = BLOCK if config.weight_type.is_blocked else 1
    return min(config.n_heads // _head_unit(config), config.ffn_dim // ffn_unit, config.vocab_size)


def _head_unit(config: ModelConfig) -> int:
    """Heads that stay together so that the columns of the output projection are cut between blocks."""
    if not config.weight_type.is_blocked:
        return 1
    unit = BLOCK // math.gcd(config.head_dim, BLOCK)
    return unit if config.n_heads % unit == 0 else config.n_heads


def _column_unit(config: ModelConfig, n_columns: int, n_ranks: int) -> int:
    """Whole blocks for q40 and q80; for f16 and f32 the largest power of two that leaves enough units."""
    if config.weight_type.is_blocked:
        return BLOCK
    return _row_unit(n_columns, n_ranks)


def _row_unit(n_rows: int, n_ranks: int) -> int:
    """The largest power of two up to 32 that divides `n_rows` and leaves every rank 8 units to share finely."""
    unit = BLOCK
    while unit > 1 and (n_rows % unit or n_rows // unit < 8 * n_ranks):
        unit //= 2
    return unit


def _split(total: int, unit: int, shares: Sequence[float]) -> list[Span]:
    """`total` cut at multiples of `unit`, by largest remainder, at least one unit each."""
    n_units = total // unit
    exact = [share / math.fsum(shares) * n_units for share in shares]
    counts = [max(1, math.floor(value)) for value in exact]
    while sum(counts) > n_units:  # the minimum of one took too much
        # from who is furthest above its share
        above = max((r for r, count in enumerate(counts) if count > 1), key=lambda r: counts[r] - exact[r])
        counts[above] -= 1
    while sum(counts) < n_units:
        below = max(range(len(counts)), key=lambda r: exact[r] - counts[r])
        counts[below] += 1
    spans, start = [], 0
    for count in counts:
        spans.append(Span(start * unit, (start + count) * unit))
        start += count
    return spans


def _index(value: Any) -> int:
    if type(value) is not int:
        raise TypeError(f"{value!r} is no place in a model")
    return value


def _spaced(values: Sequence[float]) -> str:
    return " ".join(f"{value:g}" for value in values) or "nothing"
