"""The grammar of an answer that may, or has to, call tools."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence

from dllama.answers.tool_formats import JsonCalls, TaggedCalls
from dllama.server.closed_schema import closed
from dllama.server.grammar import JSON_STYLE
from dllama.server.lark_text import literal
from dllama.server.request_parts import Function
from dllama.server.tagged_grammar import tagged_call_rules

_ANY_OBJECT = {"type": "object"}


def tool_grammar(
    tool_format: JsonCalls | TaggedCalls,
    functions: Sequence[Function],
    special_tokens: Mapping[str, int],
    *,
    must_call: bool,
    parallel: bool,
) -> str:
    """In llguidance's Lark: text, or text and calls; calls alone if it `must_call`; one only unless `parallel`.

    Arguments follow each function's schema, and are those that it names (see tagged_grammar.py for those that are no
    JSON). Without `strict`, what llguidance does not know of a schema is passed over.
    """

    def spelled(text: str) -> str:
        return literal(text, special_tokens)

    several = parallel and tool_format.max_calls != 1
    more = f"({spelled(tool_format.separator)} call)*" if several else ""
    calls = f"calls: call {more} {spelled(tool_format.closer)}"
    rules = ["%llguidance {}", _start(tool_format, must_call, special_tokens), calls]
    rules.append("call: " + " | ".join(f"call_{number}" for number in range(len(functions))))
    if isinstance(tool_format, TaggedCalls):
        return "\n".join([*rules, *tagged_call_rules(tool_format, functions, special_tokens)])
    for number, function in enumerate(functions):
        before = spelled(tool_format.before_name + function.name + tool_format.before_arguments)
        if tool_format.is_numbered:
            name = spelled(f"{tool_format.before_name}{function.name}:")
            before = f"{name} /[0-9]+/ {spelled(tool_format.before_arguments)}"
        rules.append(
            f"call_{number}: {before} %json {arguments_schema(function)} {spelled(tool_format.after)}"
        )
    return "\n".join(rules)


def _start(tool_format: JsonCalls | TaggedCalls, must_call: bool, special_tokens: Mapping[str, int]) -> str:
    opener = tool_format.opener
    if must_call:
        return f"start: {literal(opener, special_tokens)} calls"
    if not opener:  # text may begin with anything but what a call begins with
        first = re.escape(tool_format.before_name[0])
        return f"start: text | calls\ntext: /([^{first}](.|\\n)*)?/"
    marker = next((name for name in special_tokens if opener.startswith(name)), None)
    if marker is None:  # a lazy lexeme ends as soon as it can: no text goes on after the opener
        return (
            f"start: text | lead calls\ntext: TEXT\nTEXT: /(.|\\n)*/\nlead[lazy]: TEXT {json.dumps(opener)}"
        )
    return f"start: text | text {literal(opener, special_tokens)} calls\ntext: /(.|\\n)*/"


def arguments_schema(function: Function) -> str:
    """As llguidance reads it."""
    style = JSON_STYLE | {"lenient": not function.strict}
    return json.dumps({**closed(function.parameters or _ANY_OBJECT), "x-guidance": style})
