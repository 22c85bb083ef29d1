"""A request's fields become the engine's options."""

from __future__ import annotations

import dataclasses
from typing import Any

from dllama.engine import GenerationOptions, SamplingOptions, TokenConstraint
from dllama.server.request_fields import NO_LIMIT
from dllama.server.requests import GenerationRequest


def generation_options(
    request: GenerationRequest,
    defaults: SamplingOptions,
    *,
    choice: int,
    max_tokens: int | None,
    n_logprobs: int | None,
    constraint: TokenConstraint | None = None,
    shown: frozenset[int] = frozenset(),
    end_ids: frozenset[int] = frozenset(),
    continues: bool = False,
) -> GenerationOptions:
    """The options of choice number `choice`: with a seed, each has its own. `max_tokens` may be NO_LIMIT."""
    return GenerationOptions(
        sampling=_sampling(request, defaults, choice),
        max_tokens=None if max_tokens == NO_LIMIT else max_tokens,
        stop=request.stop_strings,
        stop_ids=frozenset(request.stop_token_ids or ()),
        end_ids=end_ids,
        ignore_eos=bool(request.ignore_eos),
        n_logprobs=n_logprobs,
        constraint=constraint,
        shown=shown,
        continues=continues,
        progress=bool(request.stream),
    )


def _sampling(request: GenerationRequest, defaults: SamplingOptions, choice: int) -> SamplingOptions:
    seed = defaults.seed if request.seed is None else request.seed
    wanted: dict[str, Any] = {
        "temperature": request.temperature,
        "topp": request.top_p,
        "topk": None if request.top_k is None else max(request.top_k, 0),
        "min_p": request.min_p,
        "repetition_penalty": request.repetition_penalty,
        "presence_penalty": request.presence_penalty,
        "frequency_penalty": request.frequency_penalty,
        "logit_bias": _logit_bias(request.logit_bias),
        "seed": None if seed is None else (seed + choice) % 2**64,
    }
    return dataclasses.replace(
        defaults, **{name: value for name, value in wanted.items() if value is not None}
    )


def _logit_bias(biases: dict[str, float] | None) -> dict[int, float] | None:
    return None if biases is None else {int(key): bias for key, bias in biases.items()}
