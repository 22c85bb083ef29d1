"""How many tokens an answer took."""

from __future__ import annotations

from collections.abc import Sequence

from dllama.engine import Finished
from dllama.server.responses import PromptTokensDetails, Usage


def usage_of(ends: Sequence[Finished | None], n_choices: int) -> Usage:
    """`n_choices` of each prompt: its tokens count once, and as cached what the first of them did not compute."""
    finished = [end for end in ends if end is not None]
    assert len(finished) == len(ends)
    firsts = finished[::n_choices]
    n_prompt = sum(choice.n_prompt for choice in firsts)
    n_completion = sum(choice.n_completion for choice in finished)
    return Usage(
        prompt_tokens=n_prompt,
        completion_tokens=n_completion,
        total_tokens=n_prompt + n_completion,
        prompt_tokens_details=PromptTokensDetails(cached_tokens=sum(choice.n_cached for choice in firsts)),
    )
