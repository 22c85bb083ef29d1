"""Grammars of calls whose arguments stand between tags of their own."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from dllama.answers.tool_formats import TaggedCalls
from dllama.server.closed_schema import closed
from dllama.server.grammar import JSON_STYLE
from dllama.server.lark_text import literal
from dllama.server.parameter_types import types_of
from dllama.server.request_parts import Function


def tagged_call_rules(
    tool_format: TaggedCalls, functions: Sequence[Function], special_tokens: Mapping[str, int]
) -> Iterator[str]:
    """Rules `call_0`, `call_1`, ... in llguidance's Lark: each function's parameters in the order of its schema, those
    that are not required at will. What may be text is text up to the tag after it; other values follow their schema.
    A function that names no parameters takes any.
    """

    def spelled(text: str) -> str:
        return literal(text, special_tokens)

    end = tool_format.after_value
    tag = end.strip()
    lines = end.lstrip()[len(tag) :]
    if any(tag.startswith(name) for name in special_tokens):
        yield f"value: VALUE {spelled(end.lstrip())}\nVALUE: /(.|\\n)*/"
    else:  # a lazy lexeme ends with the first tag
        yield f"value: until_tag {spelled(lines)}\nuntil_tag[lazy]: VALUE {json.dumps(tag)}\nVALUE: /(.|\\n)*/"
    any_key = f"{spelled(tool_format.before_key)} /[a-zA-Z0-9_.:-]+/ {spelled(tool_format.after_key)}"
    yield f"any_parameter: {any_key} value"
    for number, function in enumerate(functions):
        before = spelled(tool_format.before_name + function.name + tool_format.after_name)
        inner = " ".join(_parameters(tool_format, function, spelled))
        yield f"call_{number}: {before} {inner} {spelled(tool_format.after)}"


def _parameters(tool_format: TaggedCalls, function: Function, spelled: Callable[[str], str]) -> Iterator[str]:
    root = closed(function.parameters or {})
    properties = root.get("properties")
    if not isinstance(properties, Mapping):
        yield "any_parameter*"
        return
    required = root.get("required")
    for name, schema in properties.items():
        key = spelled(tool_format.before_key + name + tool_format.after_key)
        parameter = f"{key} {_value(tool_format, schema, root, function, spelled)}"
        yield parameter if isinstance(required, list) and name in required else f"({parameter})?"


def _value(
    tool_format: TaggedCalls,
    schema: Any,
    root: Mapping[str, Any],
    function: Function,
    spelled: Callable[[str], str],
) -> str:
    """With the tag after it."""
    end = tool_format.after_value
    if "string" not in types_of(schema, root):
        definitions = {key: root[key] for key in ("$defs", "definitions") if key in root}
        style = JSON_STYLE | {"lenient": not function.strict}
        return f"%json {json.dumps({**definitions, **schema, 'x-guidance': style})} {spelled(end)}"
    choices = schema.get("enum") if isinstance(schema, Mapping) else None
    if isinstance(choices, list) and all(isinstance(choice, str) for choice in choices):
        return f"({' | '.join(spelled(choice + end) for choice in choices)})"
    return "value"
