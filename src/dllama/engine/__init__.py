"""Sequences, steps and sampling, over whatever Executor computes."""

from dllama.engine.constraint import TokenConstraint
from dllama.engine.conversation import Conversation
from dllama.engine.engine import CachedSequence, Engine, Run, Want
from dllama.engine.executor import Executor
from dllama.engine.generation import PromptDone, TokenDone, generate
from dllama.engine.pages import PagePool
from dllama.engine.request import Event, Failed, Finished, GenerationOptions, TextDelta, TokenInfo
from dllama.engine.sampler import Sampler, SamplingOptions

__all__ = [
    "CachedSequence",
    "Conversation",
    "Engine",
    "Event",
    "Executor",
    "Failed",
    "Finished",
    "GenerationOptions",
    "PagePool",
    "PromptDone",
    "Run",
    "Sampler",
    "SamplingOptions",
    "TextDelta",
    "TokenConstraint",
    "TokenDone",
    "TokenInfo",
    "Want",
    "generate",
]
