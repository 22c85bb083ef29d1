"""The parameters of a tool are those that it names."""

from __future__ import annotations

from typing import Any

import pytest

from dllama.server.closed_schema import closed

POINT = {"type": "object", "properties": {"x": {"type": "integer"}}}
CLOSED_POINT = POINT | {"additionalProperties": False}


@pytest.mark.parametrize(
    ("schema", "wanted"),
    [
        (POINT, CLOSED_POINT),
        (
            {"type": "object", "properties": {}},
            {"type": "object", "properties": {}, "additionalProperties": False},
        ),
        (POINT | {"additionalProperties": True}, POINT | {"additionalProperties": True}),
        (POINT | {"additionalProperties": POINT}, POINT | {"additionalProperties": CLOSED_POINT}),
        ({"type": "object"}, {"type": "object"}),
        ({}, {}),
        (
            {
                "properties": {
                    "a": {"type": "array", "items": POINT},
                    "b": {"anyOf": [POINT, {"type": "null"}]},
                }
            },
            {
                "properties": {
                    "a": {"type": "array", "items": CLOSED_POINT},
                    "b": {"anyOf": [CLOSED_POINT, {"type": "null"}]},
                },
                "additionalProperties": False,
            },
        ),
        (
            {"$defs": {"point": POINT}, "properties": {"at": {"$ref": "#/$defs/point"}}},
            {
                "$defs": {"point": CLOSED_POINT},
                "properties": {"at": {"$ref": "#/$defs/point"}},
                "additionalProperties": False,
            },
        ),
        ({"allOf": [POINT, POINT]}, {"allOf": [POINT, POINT]}),
        (POINT | {"enum": [{"properties": 1}]}, CLOSED_POINT | {"enum": [{"properties": 1}]}),
    ],
    ids=str,
)
def test_closed(schema: dict[str, Any], wanted: dict[str, Any]) -> None:
    assert closed(schema) == wanted
