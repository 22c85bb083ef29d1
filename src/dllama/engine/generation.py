"""One text after another: the prompt goes in, tokens come out."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from dllama.engine.engine import CachedSequence, Engine, Run, Want
from dllama.engine.sampler import Sampler


@dataclasses.dataclass(frozen=True)
class PromptDone:
    """A step appended `n_tokens` of the prompt. `logits` [N, V] are those that were asked for."""

    n_tokens: int
    logits: NDArray[np.float32]


@dataclasses.dataclass(frozen=True)
class TokenDone:
    """A token was drawn; `is_end` when it is an end token. It enters the cache with the next step."""

    token_id: int
    is_end: bool


def generate(
    engine: Engine,
    sequence: CachedSequence,
    prompt_ids: Sequence[int],
    sampler: Sampler,
    *,
    n_tokens: int,
    end_ids: Collection[int],
    all_prompt_logits: bool = False,
) -> Iterator[PromptDone | TokenDone]:
    """Appends the prompt to `sequence`, then draws up to `n_tokens` tokens, stopping at one of `end_ids`.

    Stops too when the context is full. Each TokenDone follows the step that gave its logits at once, so that
    the time between two events is the time of one step.
    """
    logits = np.empty((0, 0), np.float32)
    want = Want.ALL if all_prompt_logits else Want.LAST
    for n_appended, logits in engine.append(sequence, prompt_ids, want):
        yield PromptDone(n_appended, logits)
    for index in range(n_tokens):
        token_id = sampler.sample(logits[-1])
        is_end = token_id in end_ids
        yield TokenDone(token_id, is_end)
        if is_end or index == n_tokens - 1 or len(sequence.token_ids) >= engine.max_seq_len:
            return
        logits = engine.step([Run(sequence, [token_id])])
