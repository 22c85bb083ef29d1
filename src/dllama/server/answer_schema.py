"""The JSON schema that an answer is to follow, in all the spellings of OpenAI, vLLM, llama-server and Ollama."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from typing import Any

from dllama.server.errors import ApiError
from dllama.server.request_fields import JsonObject
from dllama.server.request_parts import JsonObjectFormat, JsonSchemaFormat
from dllama.server.requests import GenerationRequest

_ANY_OBJECT: JsonObject = {"type": "object"}


@dataclasses.dataclass(frozen=True)
class AnswerSchema:
    """`param` is the field of the request that asks for it. An empty schema stands for any JSON."""

    schema: JsonObject
    param: str


def answer_schema(body: GenerationRequest) -> AnswerSchema | None:
    """None where text is wanted. Raises ApiError for two schemas in one request, and for text that is no schema."""
    found = list(_spelled(body))
    if len(found) > 1:
        raise ApiError(f"{found[0].param} and {found[1].param}: give one of them", param=found[1].param)
    return found[0] if found else None


def _spelled(body: GenerationRequest) -> Iterator[AnswerSchema]:
    wanted = body.response_format
    if isinstance(wanted, JsonObjectFormat):
        yield AnswerSchema(_or_any_object(wanted.json_schema), "response_format")
    elif isinstance(wanted, JsonSchemaFormat):
        named = wanted.json_schema.json_schema if wanted.json_schema else None
        yield AnswerSchema(_or_any_object(wanted.bare_schema if named is None else named), "response_format")
    for param in ("json_schema", "guided_json"):
        given = getattr(body, param)
        if given is not None and given != "":
            yield AnswerSchema(_parsed(given, param), param)
    if body.structured_outputs is not None:
        given = body.structured_outputs.json_schema
        if given is not None:
            yield AnswerSchema(_parsed(given, "structured_outputs.json"), "structured_outputs")
        elif body.structured_outputs.json_object:
            yield AnswerSchema(_ANY_OBJECT, "structured_outputs")
    if body.format:
        yield AnswerSchema(_ANY_OBJECT if isinstance(body.format, str) else body.format, "format")


def _or_any_object(schema: JsonObject | None) -> JsonObject:
    return _ANY_OBJECT if schema is None else schema


def _parsed(given: JsonObject | str, param: str) -> JsonObject:
    if isinstance(given, dict):
        return given
    try:
        schema: Any = json.loads(given)
    except (ValueError, RecursionError) as error:
        raise ApiError(f"{param}: the text is no JSON", param=param) from error
    if not isinstance(schema, dict):
        raise ApiError(f"{param}: a schema is a JSON object", param=param)
    return schema
