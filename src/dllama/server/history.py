"""Messages as clients send them become messages as chat templates want them."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import Any

from dllama.answers.tool_formats import ID_LETTERS, PLAIN, JsonCalls, ToolFormat
from dllama.server.request_parts import AssistantMessage, Message, MessageContent, ToolCall, ToolMessage


def text_of(content: MessageContent | None) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    return "".join(part.text for part in content)


def with_tools(message: Message, tool_format: ToolFormat) -> dict[str, Any]:
    """As the templates of Hugging Face have it: arguments are objects, "developer" is another name of "system"."""
    plain: dict[str, Any] = {"role": message.role, "content": text_of(message.content)}
    if message.role == "developer":
        plain["role"] = "system"
    if isinstance(message, ToolMessage):
        plain["tool_call_id"] = _id_for(message.tool_call_id, tool_format)
    if isinstance(message, AssistantMessage) and message.tool_calls:
        plain["tool_calls"] = [
            {
                "id": _id_for(call.id, tool_format),
                "type": "function",
                "function": {"name": call.function.name, "arguments": _arguments(call)},
            }
            for call in message.tool_calls
        ]
    return plain


def all_without_tools(messages: Sequence[Message], template: str) -> list[dict[str, Any]]:
    """In the words of the plain format. The user's turn is one, with the results of all calls and what was said
    after them: many templates want user and assistant in turn."""
    plain: list[dict[str, Any]] = []
    for before, message in zip([None, *messages], messages, strict=False):
        turn = with_reasoning(_without_tools(message), message, template)
        if isinstance(before, ToolMessage) and turn["role"] == "user":
            plain[-1]["content"] += "\n" + turn["content"]
        else:
            plain.append(turn)
    return plain


def _without_tools(message: Message) -> dict[str, Any]:
    """In the words of the plain format: calls and their results are text."""
    content = text_of(message.content)
    if isinstance(message, ToolMessage):
        return {"role": "user", "content": f"<tool_response>\n{content}\n</tool_response>"}
    if isinstance(message, AssistantMessage) and message.tool_calls:
        calls = [
            f"{PLAIN.before_name}{call.function.name}{PLAIN.before_arguments}{call.function.arguments}{PLAIN.after}"
            for call in message.tool_calls
        ]
        content += PLAIN.opener + PLAIN.separator.join(calls) + PLAIN.closer
    return {"role": "system" if message.role == "developer" else message.role, "content": content}


def about_tools(tools: Sequence[Mapping[str, Any]], tool_format: JsonCalls = PLAIN) -> dict[str, Any]:
    """For templates that do not write what tools there are."""
    lines = "\n".join(json.dumps(tool, ensure_ascii=False) for tool in tools)
    return {
        "role": "system",
        "content": f"These tools can be called:\n{lines}\nA call is written as {tool_format.opener}"
        f"{tool_format.before_name}NAME{tool_format.before_arguments}{{...}}{tool_format.after}{tool_format.closer}",
    }


def one_system_message(messages: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Leading system messages as one: many templates know only one."""
    n_leading = next((i for i, message in enumerate(messages) if message["role"] != "system"), len(messages))
    if n_leading < 2:
        return list(messages)
    content = "\n\n".join(message["content"] for message in messages[:n_leading])
    return [{"role": "system", "content": content}, *messages[n_leading:]]


def one_call_each(turns: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each call with its results after it, then the next: gpt-oss's template knows one call of an answer only. It wants
    what was thought or said before a call in one place."""
    plain: list[dict[str, Any]] = []
    place = 0
    while place < len(turns):
        turn = turns[place]
        place += 1
        calls = turn.get("tool_calls", [])
        if not calls:
            plain.append(turn)
            continue
        results = list(itertools.takewhile(lambda later: later["role"] == "tool", turns[place:]))
        place += len(results)
        words = [word for word in (turn.get("thinking"), turn["content"]) if word]
        before = {"content": "", "thinking": "\n\n".join(words)} if words else {"content": ""}
        for call in calls:
            plain.append({"role": "assistant", **before, "tool_calls": [call]})
            plain += [result for result in results if result["tool_call_id"] == call["id"]]
            results = [result for result in results if result["tool_call_id"] != call["id"]]
            before = {"content": ""}
        plain += results
    return plain


def system_in_first_question(messages: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """What leading system messages say, before what the user asks first: for templates without a system role."""
    n_leading = next((i for i, message in enumerate(messages) if message["role"] != "system"), len(messages))
    said, others = [message["content"] for message in messages[:n_leading]], list(messages[n_leading:])
    if said and others and others[0]["role"] == "user":
        said.append(others.pop(0)["content"])
    return [{"role": "user", "content": "\n\n".join(said)}, *others] if said else others


def with_reasoning(plain: dict[str, Any], message: Message, template: str) -> dict[str, Any]:
    """`plain` with what was thought before that answer, where the template looks for it."""
    thought = message.thought if isinstance(message, AssistantMessage) else None
    if thought is None:
        return plain
    # Mistral's: a part of the content
    if "[THINK]" in template and "thinking" in template and plain["content"]:
        parts = [{"type": "thinking", "thinking": thought}, {"type": "text", "text": plain["content"]}]
        return {**plain, "content": parts}
    # The latter is gpt-oss's.
    names = ["reasoning_content", *(["thinking"] if ".thinking" in template else [])]
    return {**plain, **dict.fromkeys(names, thought)}


def _arguments(call: ToolCall) -> Any:
    try:
        arguments = json.loads(call.function.arguments)
    except (ValueError, RecursionError):
        return call.function.arguments
    return arguments if isinstance(arguments, dict) else call.function.arguments


def _id_for(call_id: str, tool_format: ToolFormat) -> str:
    """The id as the template wants it: made here, it already is; another server's is made to fit."""
    length = tool_format.id_length
    if length is None or (len(call_id) == length and call_id.isalnum()):
        return call_id
    return "".join(ID_LETTERS[byte % len(ID_LETTERS)] for byte in sha256(call_id.encode()).digest()[:length])
