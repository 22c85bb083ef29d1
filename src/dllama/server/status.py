"""How the server is: /health, /api/cluster, and the models there are."""

from __future__ import annotations

import time
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from dllama import __version__
from dllama.engine import EngineStats, SamplingOptions
from dllama.server.api import FINGERPRINT, Api
from dllama.server.errors import ApiError
from dllama.server.http import json_response
from dllama.server.metrics import CONTENT_TYPE
from dllama.server.responses import (
    ClusterView,
    Defaults,
    EngineNumbers,
    Health,
    Model,
    ModelList,
    Props,
    SlotParams,
    SlotSettings,
    Version,
)
from dllama.server.token_rate import TokenRate


async def health(api: Api, request: Request, body: None) -> Response:
    """200 while requests can be answered, else 503 with the reason."""
    try:
        api.served()
    except ApiError as error:
        return json_response(Health(status="recovering", reason=str(error)), 503)
    return json_response(Health(status="ok"))


async def models(api: Api, request: Request, body: None) -> Response:
    return json_response(ModelList(data=[_model(api)]))


async def model(api: Api, request: Request, body: None) -> Response:
    api.check_name(request.path_params["model"])
    return json_response(_model(api))


async def cluster(api: Api, request: Request, body: None) -> Response:
    name = api.settings.model_name
    try:
        served = api.served()
    except ApiError as error:
        return json_response(
            ClusterView(
                model=name,
                status="recovering",
                reason=str(error),
                max_model_len=None,
                nodes=list(api.nodes()),
                engine=None,
            )
        )
    return json_response(
        ClusterView(
            model=name,
            status="ok",
            reason=None,
            max_model_len=served.max_seq_len,
            nodes=list(api.nodes()),
            engine=_engine_numbers(served.service.stats(), api.token_rate),
        )
    )


async def defaults(api: Api, request: Request, body: None) -> Response:
    sampling = api.settings.chat_sampling
    return json_response(
        Defaults(
            **_sampling_defaults(sampling),
            repetition_penalty=sampling.repetition_penalty,
            max_tokens=None,
            seed=sampling.seed,
        )
    )


async def version(api: Api, request: Request, body: None) -> Response:
    return json_response(Version(version=__version__))


async def props(api: Api, request: Request, body: None) -> Response:
    served, sampling = api.served(), api.settings.chat_sampling
    return json_response(
        Props(
            default_generation_settings=SlotSettings(
                n_ctx=served.max_seq_len,
                params=SlotParams(**_sampling_defaults(sampling), repeat_penalty=sampling.repetition_penalty),
            ),
            total_slots=served.service.n_parallel,
            model_alias=api.settings.model_name,
            chat_template=served.template.source if served.template else "",
            build_info=FINGERPRINT,
        )
    )


async def metrics(api: Api, request: Request, body: None) -> Response:
    return Response(api.metrics.text(), media_type=CONTENT_TYPE)


def _sampling_defaults(sampling: SamplingOptions) -> dict[str, Any]:
    """The fields of responses.SamplingDefaults."""
    return {
        "temperature": sampling.temperature,
        "top_p": sampling.topp,
        "top_k": sampling.topk,
        "min_p": sampling.min_p,
        "presence_penalty": sampling.presence_penalty,
        "frequency_penalty": sampling.frequency_penalty,
    }


def _engine_numbers(stats: EngineStats, token_rate: TokenRate) -> EngineNumbers:
    return EngineNumbers(
        running=stats.n_running,
        queued=stats.n_queued,
        pages_total=stats.n_pages_used + stats.n_pages_cached + stats.n_pages_free,
        pages_used=stats.n_pages_used,
        pages_cached=stats.n_pages_cached,
        prompt_tokens=stats.n_prompt_tokens,
        cached_tokens=stats.n_cached_tokens,
        completion_tokens=stats.n_completion_tokens,
        steps=stats.n_steps,
        preemptions=stats.n_preemptions,
        tok_per_s=token_rate.update(time.perf_counter(), stats.n_completion_tokens),
    )


def _model(api: Api) -> Model:
    """`max_model_len` is null while the model is not there."""
    try:
        max_model_len = api.served().max_seq_len
    except ApiError:
        max_model_len = None
    return Model(id=api.settings.model_name, created=int(api.started), max_model_len=max_model_len)
