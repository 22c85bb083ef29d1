"""What a model is, and the forward pass of one rank over it: config, layers, weights, KV cache."""

from dllama.model.all_reduce import Algorithm, ReducePlan, plan_reduce, wire_row_bytes
from dllama.model.batch import StepBatch
from dllama.model.cache_shape import PAGE_SIZE, CacheShape, PageGroup, page_windows
from dllama.model.candidates import RankCandidates, merge_candidates
from dllama.model.config import ModelConfig, shortest_float32
from dllama.model.inputs import Inputs
from dllama.model.kv_cache import (
    CACHE_TYPES,
    CacheStorage,
    KvCache,
    cache_bytes,
    cached_widths,
    check_cache_type,
    context_bytes,
)
from dllama.model.layers import (
    Activation,
    Attention,
    DeltaNet,
    Dense,
    Experts,
    LatentAttention,
    Layer,
    Mixer,
)
from dllama.model.logits import MOST_CANDIDATES, Candidates, LogitEdits, LogitMasks, LogitRows
from dllama.model.norm import NormKind
from dllama.model.page_tables import page_table_bytes
from dllama.model.rope import FactorScaling, Rope, RopeScaling, RopeStyle, YarnScaling
from dllama.model.states import state_bytes
from dllama.model.tensors import VOCABULARY, ModelSpec
from dllama.model.trace import EVENT, MAX_EVENTS, SpanName, Trace, Track
from dllama.model.transformer import StepLimits, Transformer, buffer_row_bytes, table_bytes
from dllama.model.types import MATRIX_TYPES, TensorTypes
from dllama.model.weights import ModelWeights

__all__ = [
    "CACHE_TYPES",
    "EVENT",
    "MATRIX_TYPES",
    "MAX_EVENTS",
    "MOST_CANDIDATES",
    "PAGE_SIZE",
    "VOCABULARY",
    "Activation",
    "Algorithm",
    "Attention",
    "CacheShape",
    "CacheStorage",
    "Candidates",
    "DeltaNet",
    "Dense",
    "Experts",
    "FactorScaling",
    "Inputs",
    "KvCache",
    "LatentAttention",
    "Layer",
    "LogitEdits",
    "LogitMasks",
    "LogitRows",
    "Mixer",
    "ModelConfig",
    "ModelSpec",
    "ModelWeights",
    "NormKind",
    "PageGroup",
    "RankCandidates",
    "ReducePlan",
    "Rope",
    "RopeScaling",
    "RopeStyle",
    "SpanName",
    "StepBatch",
    "StepLimits",
    "TensorTypes",
    "Trace",
    "Track",
    "Transformer",
    "YarnScaling",
    "buffer_row_bytes",
    "cache_bytes",
    "cached_widths",
    "check_cache_type",
    "context_bytes",
    "merge_candidates",
    "page_table_bytes",
    "page_windows",
    "plan_reduce",
    "shortest_float32",
    "state_bytes",
    "table_bytes",
    "wire_row_bytes",
]
