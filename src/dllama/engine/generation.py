"""One text after another: the prompt goes in, tokens come out."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from dllama.engine.engine import CachedSequence, Engine, Run, Want
from dllama.engine.sampler import Sampler
from dllama.model import Candidates


@dataclasses.dataclass(frozen=True)
class PromptDone:
    """A step appended `n_tokens` of the prompt. `logits` [n_tokens, V] are there when they were asked for."""

    n_tokens: int
    logits: NDArray[np.float32] | None


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
    want = Want.ALL if all_prompt_logits else Want.LAST
    candidates: Candidates | None = None
    prompt = _run(sequence, prompt_ids, sampler, want)
    for n_appended, candidates in engine.append(prompt):  # noqa: B007 -- the last ones are drawn from
        yield PromptDone(n_appended, engine.whole_logits() if all_prompt_logits else None)
    assert candidates is not None, "a prompt of no tokens"
    for index in range(n_tokens):
        token_id = sampler.sample(candidates, -1, engine.whole_logits)
        is_end = token_id in end_ids
        yield TokenDone(token_id, is_end)
        if is_end or index == n_tokens - 1 or len(sequence.token_ids) >= engine.max_seq_len:
            return
        candidates = engine.step([_run(sequence, [token_id], sampler, Want.LAST)])


def _run(sequence: CachedSequence, token_ids: Sequence[int], sampler: Sampler, want: Want) -> Run:
    return Run(sequence, token_ids, want, n_candidates=sampler.n_candidates, temperature=sampler.temperature)
