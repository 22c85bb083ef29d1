"""Sequences, steps and sampling, over whatever Executor computes."""

from dllama.engine.conversation import Conversation
from dllama.engine.engine import CachedSequence, Engine, Run, Want
from dllama.engine.executor import Executor
from dllama.engine.generation import PromptDone, TokenDone, generate
from dllama.engine.pages import PagePool
from dllama.engine.sampler import Sampler, SamplingOptions

__all__ = [
    "CachedSequence",
    "Conversation",
    "Engine",
    "Executor",
    "PagePool",
    "PromptDone",
    "Run",
    "Sampler",
    "SamplingOptions",
    "TokenDone",
    "Want",
    "generate",
]
