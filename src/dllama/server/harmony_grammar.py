"""Grammars of gpt-oss's answers: what the model thinks and says before is free, its answer or call is not."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from dllama.answers.reasoning_formats import Stage
from dllama.server.grammar import JSON_STYLE
from dllama.server.lark_text import literal
from dllama.server.request_parts import Function
from dllama.server.tool_grammar import arguments_schema


def harmony_schema_grammar(schema: Mapping[str, Any], special_tokens: Mapping[str, int]) -> str:
    """In llguidance's Lark: any thoughts, then a final message that follows `schema`."""
    final = literal("<|channel|>final<|message|>", special_tokens)
    value = json.dumps({**schema, "x-guidance": JSON_STYLE})
    return "\n".join([*_rules(special_tokens), "start: before* last", f"last: {final} %json {value}"])


def harmony_tool_grammar(
    functions: Sequence[Function], special_tokens: Mapping[str, int], stage: Stage, *, must_call: bool
) -> str:
    """In llguidance's Lark: any thoughts and words to the user, then a call, or a final message unless it `must_call`.

    Where the answer goes on within its final message (`stage`), a call may follow that.
    """

    def spelled(text: str) -> str:
        return literal(text, special_tokens)

    rules = _rules(special_tokens)
    rules.append("call: " + " | ".join(f"call_{number}" for number in range(len(functions))))
    for number, function in enumerate(functions):
        to = f" to=functions.{function.name}"
        heads = [
            f"<|channel|>commentary{to} <|constrain|>json<|message|>",
            f"{to}<|channel|>commentary json<|message|>",
        ]
        head = " | ".join(spelled(each) for each in heads)
        rules.append(f"call_{number}: ({head}) %json {arguments_schema(function)}")
    final = "" if must_call else f"| {spelled('<|channel|>final<|message|>')} text"
    rules.append(f"last: call {final}")
    go_on = spelled("<|end|><|start|>assistant")
    if stage is not Stage.ANSWERS:
        rules.append("start: before* last")
    elif must_call:
        rules.append(f"start: text {go_on} before* last")
    else:
        rules.append(f"start: text | text {go_on} before* last")
    return "\n".join(rules)


def _rules(special_tokens: Mapping[str, int]) -> list[str]:
    """`before` is a message that others follow."""
    go_on = literal("<|end|><|start|>assistant", special_tokens)
    thought, preamble = (
        literal(f"<|channel|>{channel}<|message|>", special_tokens) for channel in ("analysis", "commentary")
    )
    return [
        "%llguidance {}",
        "text: /(.|\\n)*/",
        f"before: ({thought} | {preamble}) text {go_on}",
    ]
