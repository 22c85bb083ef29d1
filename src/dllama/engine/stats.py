"""What the engine has done and what it holds, in numbers."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True, kw_only=True)
class EngineStats:
    """Requests and pages as they are now; all others are totals since the start.

    n_pages_used        pages, of all page groups together
    n_pages_cached      those that nobody uses, kept for what they hold
    n_prompt_tokens     of requests that have started, of which `n_cached_tokens` were not computed
    n_drafted           draft tokens that were verified, of which `n_drafted_right` came true
    """

    n_running: int
    n_queued: int
    n_pages_used: int
    n_pages_cached: int
    n_pages_free: int
    n_prompt_tokens: int
    n_cached_tokens: int
    n_completion_tokens: int
    n_steps: int
    n_preemptions: int
    n_drafted: int
    n_drafted_right: int


@dataclasses.dataclass(kw_only=True)
class Totals:
    """What is counted as it happens."""

    n_prompt_tokens: int = 0
    n_cached_tokens: int = 0
    n_completion_tokens: int = 0
    n_steps: int = 0
    n_drafted: int = 0
    n_drafted_right: int = 0
