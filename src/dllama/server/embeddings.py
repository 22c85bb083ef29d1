"""POST /v1/embeddings: the mean of a text's last hidden states, of length 1."""

from __future__ import annotations

import base64
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from starlette.requests import Request
from starlette.responses import Response

from dllama.engine import EngineService, Ticket
from dllama.server.admission import prepared
from dllama.server.api import Api
from dllama.server.errors import ApiError
from dllama.server.http import json_response, until_disconnect
from dllama.server.inputs import each_text, ids_of
from dllama.server.one_answer import one_answer
from dllama.server.request_log import TokenCount, count_tokens
from dllama.server.requests import EmbeddingRequest
from dllama.server.responses import Embedding, EmbeddingList, EmbeddingUsage
from dllama.server.served import ServedModel


async def embed(api: Api, request: Request, body: EmbeddingRequest) -> Response:
    served = api.model(body.model)
    (place,), inputs = await prepared(api, request, served, 1, _inputs, served, body)
    n_tokens = sum(map(len, inputs))
    count_tokens(request, TokenCount(n_tokens))
    try:
        vectors = await until_disconnect(
            request, _embed_all(served.service, inputs, place, body.dimensions), api.ending
        )
    finally:
        place.cancel()
    return json_response(
        EmbeddingList(
            data=[
                Embedding(index=index, embedding=_written(vector, body.encoding_format))
                for index, vector in enumerate(vectors)
            ],
            model=api.settings.model_name,
            usage=EmbeddingUsage(prompt_tokens=n_tokens, total_tokens=n_tokens),
        )
    )


def _inputs(served: ServedModel, body: EmbeddingRequest) -> list[list[int]]:
    """Token ids of each text."""
    return [ids_of(text, served, "input", body.parse_special) for text in each_text(body.input)]


async def _embed_all(
    service: EngineService, inputs: Sequence[Sequence[int]], place: Ticket, n_dimensions: int | None
) -> list[NDArray[np.float32]]:
    """One vector for each input, one after the other in the same place: a long list leaves room for others.

    What is under way goes on until `place` is cancelled. Raises ApiError for more dimensions than there are.
    """
    return [_shortened(await _embed(service, ids, place), n_dimensions) for ids in inputs]


async def _embed(service: EngineService, ids: Sequence[int], place: Ticket) -> NDArray[np.float32]:
    return await one_answer(lambda on_done: service.embed(ids, on_done, place))


def _shortened(vector: NDArray[np.float32], n_dimensions: int | None) -> NDArray[np.float32]:
    """Its first numbers, of length 1 again."""
    if n_dimensions is None:
        return vector
    if n_dimensions > len(vector):
        raise ApiError(
            f"dimensions: {n_dimensions} are more than the model's {len(vector)}", param="dimensions"
        )
    first = vector[:n_dimensions]
    length = np.float32(np.linalg.norm(first))
    return first / length if length else first


def _written(vector: NDArray[np.float32], encoding: str | None) -> list[float] | str:
    if encoding == "base64":
        return base64.b64encode(vector.astype("<f4").tobytes()).decode()
    return [float(value) for value in vector]
