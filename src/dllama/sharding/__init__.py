"""Who owns what: tensors, the axes along which they are cut, and spans of these for each rank. Pure arithmetic that
knows nothing of models."""

from dllama.sharding.axes import axes_of
from dllama.sharding.spans import Axis, RankSpans, ShardPlan, Span, largest_node_count, plan_spans
from dllama.sharding.tensors import Along, Cut, Shard, Tensor, shard_of

__all__ = [
    "Along",
    "Axis",
    "Cut",
    "RankSpans",
    "Shard",
    "ShardPlan",
    "Span",
    "Tensor",
    "axes_of",
    "largest_node_count",
    "plan_spans",
    "shard_of",
]
