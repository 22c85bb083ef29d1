"""The forward pass of one rank: weights, KV cache, layers."""

from dllama.model.all_reduce import Algorithm, ReducePlan, plan_reduce, wire_row_bytes
from dllama.model.batch import StepBatch
from dllama.model.candidates import RankCandidates, merge_candidates
from dllama.model.inputs import Inputs
from dllama.model.kv_cache import (
    CACHE_TYPES,
    PAGE_SIZE,
    CacheShape,
    CacheStorage,
    KvCache,
    cache_bytes,
    check_cache_type,
)
from dllama.model.logits import MOST_CANDIDATES, Candidates, LogitEdits, LogitMasks, LogitRows
from dllama.model.trace import EVENT, MAX_EVENTS, SpanName, Trace, Track
from dllama.model.transformer import StepLimits, Transformer, buffer_row_bytes
from dllama.model.weights import ModelWeights

__all__ = [
    "CACHE_TYPES",
    "EVENT",
    "MAX_EVENTS",
    "MOST_CANDIDATES",
    "PAGE_SIZE",
    "Algorithm",
    "CacheShape",
    "CacheStorage",
    "Candidates",
    "Inputs",
    "KvCache",
    "LogitEdits",
    "LogitMasks",
    "LogitRows",
    "ModelWeights",
    "RankCandidates",
    "ReducePlan",
    "SpanName",
    "StepBatch",
    "StepLimits",
    "Trace",
    "Track",
    "Transformer",
    "buffer_row_bytes",
    "cache_bytes",
    "check_cache_type",
    "merge_candidates",
    "plan_reduce",
    "wire_row_bytes",
]
