"""Requests, scheduling, pages and sampling, over whatever Executor computes."""

from dllama.engine.batch import TokenChunk, ragged_batch
from dllama.engine.constraint import Following, TokenConstraint
from dllama.engine.conversation import Conversation
from dllama.engine.divergence import Divergence, DivergenceReport, StoredLogits, stored_logits
from dllama.engine.engine import Engine, StepDone
from dllama.engine.executor import Executor
from dllama.engine.request import (
    Event,
    Failed,
    Finished,
    GenerationOptions,
    PromptProgress,
    TextDelta,
    TokenInfo,
)
from dllama.engine.sampler import Sampler, SamplingOptions
from dllama.engine.scoring import score, score_windows
from dllama.engine.service import EngineService, Ticket
from dllama.engine.stats import EngineStats

__all__ = [
    "Conversation",
    "Divergence",
    "DivergenceReport",
    "Engine",
    "EngineService",
    "EngineStats",
    "Event",
    "Executor",
    "Failed",
    "Finished",
    "Following",
    "GenerationOptions",
    "PromptProgress",
    "Sampler",
    "SamplingOptions",
    "StepDone",
    "StoredLogits",
    "TextDelta",
    "Ticket",
    "TokenChunk",
    "TokenConstraint",
    "TokenInfo",
    "ragged_batch",
    "score",
    "score_windows",
    "stored_logits",
]
