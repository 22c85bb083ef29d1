"""Every endpoint, as data: the routes and the schema are both made from this table."""

from __future__ import annotations

import dataclasses
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

import pydantic
from starlette.requests import Request
from starlette.responses import Response

from dllama.server import requests, responses, status
from dllama.server.api import Api
from dllama.server.chat import chat
from dllama.server.completions import complete
from dllama.server.embeddings import embed
from dllama.server.tokens import detokenize, tokenize

Handler: TypeAlias = Callable[[Api, Request, Any], Awaitable[Response]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Endpoint:
    """`handle(api, request, body)`; the body is an instance of `request`, or None where there is none.

    stream      the data of each server-sent event, where the answer can be a stream
    statuses    what else than 200 it answers with; the body is then an ErrorResponse, but for `other_bodies`
    is_public   needs no API key
    """

    method: str
    path: str
    summary: str
    handle: Handler
    response: type[pydantic.BaseModel] | None
    request: type[pydantic.BaseModel] | None = None
    stream: type[pydantic.BaseModel] | None = None
    statuses: tuple[int, ...] = ()
    other_bodies: dict[int, type[pydantic.BaseModel]] = dataclasses.field(default_factory=dict)
    is_public: bool = False


_ASKING = (400, 404, 408, 413, 415, 429, 503)
_GENERATION = (*_ASKING, 500)

ENDPOINTS = (
    Endpoint(
        method="POST",
        path="/v1/chat/completions",
        summary="The assistant's next turn of a conversation",
        handle=chat,
        request=requests.ChatRequest,
        response=responses.ChatCompletion,
        stream=responses.ChatChunk,
        statuses=_GENERATION,
    ),
    Endpoint(
        method="POST",
        path="/v1/completions",
        summary="A text, continued",
        handle=complete,
        request=requests.CompletionRequest,
        response=responses.Completion,
        stream=responses.Completion,
        statuses=_GENERATION,
    ),
    Endpoint(
        method="POST",
        path="/v1/embeddings",
        summary="Texts as vectors of length 1: the mean of the last hidden states",
        handle=embed,
        request=requests.EmbeddingRequest,
        response=responses.EmbeddingList,
        statuses=_GENERATION,
    ),
    Endpoint(
        method="POST",
        path="/tokenize",
        summary="The token ids of a text or a conversation",
        handle=tokenize,
        request=requests.TokenizeRequest,
        response=responses.Tokens,
        statuses=_ASKING,
    ),
    Endpoint(
        method="POST",
        path="/detokenize",
        summary="The text of token ids",
        handle=detokenize,
        request=requests.DetokenizeRequest,
        response=responses.DetokenizedText,
        statuses=_ASKING,
    ),
    Endpoint(
        method="GET",
        path="/v1/models",
        summary="The served model",
        handle=status.models,
        response=responses.ModelList,
    ),
    Endpoint(
        method="GET",
        path="/v1/models/{model}",
        summary="The served model, by its name",
        handle=status.model,
        response=responses.Model,
        statuses=(404,),
    ),
    Endpoint(
        method="GET",
        path="/health",
        summary="Whether requests can be answered",
        handle=status.health,
        response=responses.Health,
        other_bodies={503: responses.Health},
        is_public=True,
    ),
    Endpoint(
        method="GET",
        path="/api/cluster",
        summary="Every node and what it does",
        handle=status.cluster,
        response=responses.ClusterView,
    ),
    Endpoint(
        method="GET",
        path="/api/defaults",
        summary="How a chat is sampled where its request says nothing",
        handle=status.defaults,
        response=responses.Defaults,
    ),
    Endpoint(
        method="GET",
        path="/version",
        summary="The version of this server",
        handle=status.version,
        response=responses.Version,
        is_public=True,
    ),
    Endpoint(
        method="GET",
        path="/props",
        summary="The server's settings, as llama-server tells them",
        handle=status.props,
        response=responses.Props,
        statuses=(503,),
    ),
    Endpoint(
        method="GET",
        path="/metrics",
        summary="Numbers for Prometheus",
        handle=status.metrics,
        response=None,
    ),
)
