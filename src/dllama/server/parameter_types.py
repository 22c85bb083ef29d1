"""Values of parameters that are written as plain text become JSON, by the types that a tool's schema allows."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from dllama.server.request_fields import JsonObject

_ANY = frozenset({"string", "number", "integer", "boolean", "null", "array", "object"})
_PYTHON = {"True": "true", "False": "false", "None": "null"}
"""Templates in Jinja write these so, and models learn it."""

_MOST_NESTED = 16

TEXT = frozenset({"string"})
"""A parameter with these types alone is text, whatever is in it."""


def parameter_types(parameters: JsonObject | None) -> Mapping[str, frozenset[str]]:
    """The JSON types of each named parameter of a tool."""
    parameters = parameters or {}
    properties = parameters.get("properties")
    named = properties if isinstance(properties, Mapping) else {}
    return {name: types_of(schema, parameters) for name, schema in named.items()}


def types_of(schema: Any, root: Mapping[str, Any], depth: int = 0) -> frozenset[str]:
    """Those that a value may have; all where the schema does not say."""
    if not isinstance(schema, Mapping) or depth > _MOST_NESTED:
        return _ANY
    types = _ANY
    if isinstance(schema.get("$ref"), str):
        types &= types_of(_referred(schema["$ref"], root), root, depth + 1)
    if "type" in schema:
        named = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
        named = [name for name in named if isinstance(name, str)]
        types &= frozenset(named) | ({"integer"} if "number" in named else frozenset())
    values = schema.get("enum", [schema["const"]] if "const" in schema else None)
    if isinstance(values, list):
        types &= frozenset[str]().union(*map(_types_of_value, values))
    for key in ("anyOf", "oneOf"):
        if isinstance(schema.get(key), list):
            types &= frozenset[str]().union(*(types_of(part, root, depth + 1) for part in schema[key]))
    for part in schema["allOf"] if isinstance(schema.get("allOf"), list) else ():
        types &= types_of(part, root, depth + 1)
    return types or _ANY


def as_json(text: str, types: frozenset[str]) -> str:
    """The value that `text` writes, of one of the types; text where it writes none of them."""
    stripped = text.strip()
    try:
        value = json.loads(_PYTHON.get(stripped, stripped), parse_constant=_refuse)
        written = json.dumps(value, ensure_ascii=False, allow_nan=False)
    except (ValueError, RecursionError):
        return json.dumps(text, ensure_ascii=False)
    # A quoted text is one that has quotes where strings are written without.
    is_wanted = "string" not in types or (types & _types_of_value(value) and not isinstance(value, str))
    return written if is_wanted else json.dumps(text, ensure_ascii=False)


def _types_of_value(value: Any) -> frozenset[str]:
    if isinstance(value, bool):
        return frozenset({"boolean"})
    if isinstance(value, int | float):
        is_whole = isinstance(value, int) or value.is_integer()
        return frozenset({"number", "integer"} if is_whole else {"number"})
    kinds = ((str, "string"), (list, "array"), (dict, "object"))
    return frozenset({next((name for kind, name in kinds if isinstance(value, kind)), "null")})


def _referred(reference: str, root: Mapping[str, Any]) -> Any:
    """What `#/$defs/NAME` and the like name."""
    part: Any = root
    for name in reference.removeprefix("#").strip("/").split("/"):
        part = part.get(name) if isinstance(part, Mapping) else None
    return part


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is no JSON")
