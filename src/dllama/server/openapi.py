"""GET /openapi.json: the table of endpoints in OpenAPI 3.1 (https://spec.openapis.org/oas/v3.1.0)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any, Literal, TypeAlias

import pydantic
from pydantic.json_schema import models_json_schema

from dllama import __version__
from dllama.server.endpoints import Endpoint
from dllama.server.responses import ErrorResponse

Json: TypeAlias = dict[str, Any]

_REFERENCE = "#/components/schemas/{model}"
_REASONS = {
    400: "the request is malformed, or asks for what cannot be done",
    401: "the API key is missing or wrong",
    403: "the server does not answer to the name in the Host header",
    404: "there is no such model",
    408: "the body did not arrive in time",
    413: "the body is too large",
    415: "the body is no application/json",
    429: "too many requests wait already; Retry-After says when to come back",
    500: "an error inside the server",
    503: "the model is not there at the moment",
}


def openapi_document(endpoints: Sequence[Endpoint], *, with_keys: bool) -> Json:
    """`with_keys`: the server asks for one."""
    schemas, definitions = models_json_schema(list(_models(endpoints)), ref_template=_REFERENCE)
    paths: dict[str, Json] = {}
    for endpoint in endpoints:
        operation = _operation(endpoint, schemas, with_keys and not endpoint.is_public)
        paths.setdefault(endpoint.path, {})[endpoint.method.lower()] = operation
    components: Json = {"schemas": definitions["$defs"]}
    if with_keys:
        components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    return {
        "openapi": "3.1.0",
        "info": {"title": "dllama", "version": __version__},
        "paths": paths,
        "components": components,
    }


_Mode: TypeAlias = Literal["validation", "serialization"]


def _models(endpoints: Sequence[Endpoint]) -> Iterator[tuple[type[pydantic.BaseModel], _Mode]]:
    yield ErrorResponse, "validation"
    for endpoint in endpoints:
        for model in (endpoint.request, endpoint.response, endpoint.stream, *endpoint.other_bodies.values()):
            if model is not None:
                yield model, "validation"


def _operation(endpoint: Endpoint, schemas: Any, needs_key: bool) -> Json:
    def content(model: type[pydantic.BaseModel]) -> Json:
        return {"application/json": {"schema": schemas[model, "validation"]}}

    success: Json = {"description": "done"}
    if endpoint.response is not None:
        success["content"] = content(endpoint.response)
    else:
        success["content"] = {"text/plain": {"schema": {"type": "string"}}}
    if endpoint.stream is not None:
        success["content"]["text/event-stream"] = {"schema": _event(endpoint.stream, schemas)}
    responses = {"200": success}
    for status in sorted({*endpoint.statuses, 403, *((401,) if needs_key else ())}):
        responses[str(status)] = {"description": _REASONS[status], "content": content(ErrorResponse)}
    for status, model in endpoint.other_bodies.items():
        responses[str(status)] = {"description": _REASONS[status], "content": content(model)}
    operation: Json = {
        "summary": endpoint.summary,
        "operationId": endpoint.handle.__name__,
        "parameters": _parameters(endpoint.path),
        "responses": responses,
    }
    if endpoint.request is not None:
        operation["requestBody"] = {"required": True, "content": content(endpoint.request)}
    if needs_key:
        operation["security"] = [{"key": []}]
    return operation


def _event(model: type[pydantic.BaseModel], schemas: Any) -> Json:
    """One server-sent event; the last one's data is [DONE]."""
    data = {
        "type": "string",
        "contentMediaType": "application/json",
        "contentSchema": schemas[model, "validation"],
        "description": "the last one is [DONE]; an error on the way is an ErrorResponse, and ends the stream",
    }
    return {"type": "object", "properties": {"data": data}, "required": ["data"]}


def _parameters(path: str) -> list[Json]:
    return [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in re.findall(r"{(\w+)(?::path)?}", path)
    ]
