"""Who owns what: spans of heads, FFN columns and vocabulary rows for each rank. Pure arithmetic."""

from dllama.sharding.shards import Shard, rank_shards, shard_bytes
from dllama.sharding.spans import RankSpans, ShardPlan, Span, largest_node_count, plan_spans

__all__ = [
    "RankSpans",
    "Shard",
    "ShardPlan",
    "Span",
    "largest_node_count",
    "plan_spans",
    "rank_shards",
    "shard_bytes",
]
