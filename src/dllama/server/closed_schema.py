"""JSON schemas of objects that have the properties they name and no others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dllama.server.request_fields import JsonObject

_ONE = ("items", "additionalProperties")
_SEVERAL = ("anyOf", "oneOf", "prefixItems")
_NAMED = ("properties", "patternProperties", "$defs", "definitions")
"""Where a schema holds one schema, a list of them, or one for each name."""

_OPEN = (
    "additionalProperties",
    "unevaluatedProperties",
    "patternProperties",
    "anyOf",
    "oneOf",
    "allOf",
    "$ref",
    "if",
)
"""An object with one of these beside its properties says itself, or elsewhere, what else it may have."""


def closed(schema: JsonObject) -> JsonObject:
    """The same, but an object with `properties` that says nothing of others has no others, as with OpenAI's strict
    tools; a schema that puts objects together (allOf) stays as it is, for its parts allow for each other."""
    return schema if _has_all_of(schema) else _closed(schema)


def _closed(schema: Any) -> Any:
    if not isinstance(schema, Mapping):
        return schema
    inner = dict(schema)
    for key in _ONE:
        if key in inner:
            inner[key] = _closed(inner[key])
    for key in _SEVERAL:
        if isinstance(inner.get(key), list):
            inner[key] = [_closed(part) for part in inner[key]]
    for key in _NAMED:
        if isinstance(inner.get(key), Mapping):
            inner[key] = {name: _closed(part) for name, part in inner[key].items()}
    if "properties" in inner and not any(key in inner for key in _OPEN):
        inner["additionalProperties"] = False
    return inner


def _has_all_of(part: Any) -> bool:
    if isinstance(part, Mapping):
        return "allOf" in part or any(map(_has_all_of, part.values()))
    return isinstance(part, list) and any(map(_has_all_of, part))
