"""A conversation as clients send it becomes the model's prompt."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from hashlib import sha256
from typing import Any

from dllama.server.errors import ApiError
from dllama.server.inputs import check_room
from dllama.server.requests import AssistantMessage, Content, Message, Tool, ToolCall, ToolMessage
from dllama.server.served import ServedModel
from dllama.server.tool_formats import ID_LETTERS, PLAIN, ToolFormat, tool_format_of
from dllama.tokenizer import ChatTemplate

_TAKEN_VARIABLES = frozenset({"self", "messages", "tools", "add_generation_prompt"})


def chat_prompt(
    served: ServedModel,
    messages: Sequence[Message],
    *,
    tools: Sequence[Tool] = (),
    variables: Mapping[str, Any] | None = None,
    add_generation_prompt: bool = True,
) -> list[int]:
    """Token ids. Raises ApiError where the model has no template, TokenizerError where it refuses.

    `variables` go to the template; so do the tools, or, where it knows none, dllama's own words about them.
    """
    template = chat_template(served)
    check_room(_texts(messages, tools), served, "messages")
    given = dict(variables or {})
    for name in given:
        if name in _TAKEN_VARIABLES:
            raise ApiError(f"chat_template_kwargs must not have {name!r}", param="chat_template_kwargs")
    described = [tool.model_dump(exclude_none=True) for tool in tools]
    tool_format = tool_format_of(template.source)
    if tool_format is None:
        plain = [_without_tools(message) for message in messages]
        if described:
            plain.insert(0, _about_tools(described))
        return _render(template, _one_system_message(plain), add_generation_prompt, given)
    if described:
        given["tools"] = described
    rendered = [_with_tools(message, tool_format) for message in messages]
    return _render(template, rendered, add_generation_prompt, given)


def _texts(messages: Sequence[Message], tools: Sequence[Tool]) -> Iterator[str]:
    """What every template writes somewhere."""
    for message in messages:
        yield text_of(message.content)
        if isinstance(message, AssistantMessage):
            yield from (call.function.arguments for call in message.tool_calls or ())
    yield from (tool.function.description or "" for tool in tools)


def chat_template(served: ServedModel) -> ChatTemplate:
    """Raises ApiError where there is none."""
    if served.template is None:
        raise ApiError(
            "this model has no chat template: use /v1/completions, or start the server with --chat-template",
            param="messages",
        )
    return served.template


def text_of(content: Content | None) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    return "".join(part.text for part in content)


def _render(
    template: ChatTemplate, messages: Sequence[Mapping[str, Any]], opens: bool, variables: Mapping[str, Any]
) -> list[int]:
    return template.render(messages, add_generation_prompt=opens, **variables)


def _with_tools(message: Message, tool_format: ToolFormat) -> dict[str, Any]:
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


def _about_tools(tools: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    lines = "\n".join(json.dumps(tool, ensure_ascii=False) for tool in tools)
    return {
        "role": "system",
        "content": f"These tools can be called:\n{lines}\nA call is written as {PLAIN.opener}"
        f"{PLAIN.before_name}NAME{PLAIN.before_arguments}{{...}}{PLAIN.after}{PLAIN.closer}",
    }


def _one_system_message(messages: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Leading system messages as one: many templates know only one."""
    n_leading = next((i for i, message in enumerate(messages) if message["role"] != "system"), len(messages))
    if n_leading < 2:
        return list(messages)
    content = "\n\n".join(message["content"] for message in messages[:n_leading])
    return [{"role": "system", "content": content}, *messages[n_leading:]]


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
