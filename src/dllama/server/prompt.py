"""A conversation as clients send it becomes the model's prompt."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from dllama.answers import harmony
from dllama.answers.reasoning_formats import (
    ReasoningFormat,
    Stage,
    reasoning_format_of,
    stage_after,
    stage_within,
)
from dllama.answers.reasoning_output import ReasoningOutput
from dllama.answers.tool_formats import HARMONY, JsonCalls, tool_format_of
from dllama.server.errors import ApiError
from dllama.server.history import (
    about_tools,
    all_without_tools,
    one_call_each,
    one_system_message,
    system_in_first_question,
    text_of,
    with_reasoning,
    with_tools,
)
from dllama.server.inputs import check_n_tokens, check_room
from dllama.server.request_parts import AssistantMessage, Message, Tool
from dllama.server.served import ServedModel
from dllama.tokenizer import ChatTemplate, Tokenizer

_TAKEN_VARIABLES = frozenset({"self", "messages", "tools", "add_generation_prompt", "continue_final_message"})


@dataclasses.dataclass(frozen=True, kw_only=True)
class ChatPrompt:
    """What the model goes on from. `begun` is what the answer begins with already, where the last message is to be
    continued. `reasoning` is None for models that do not think between marks; else the answer begins at `stage`, as it
    does where it `has_channels` (see harmony.py)."""

    ids: list[int]
    begun: str
    reasoning: ReasoningFormat | None
    stage: Stage
    has_channels: bool = False

    def marks(self, tokenizer: Tokenizer) -> frozenset[int]:
        """The tokens between which the model thinks."""
        if self.has_channels:
            return harmony.mark_ids(tokenizer.special_tokens)
        return frozenset(self.reasoning.token_ids(tokenizer).values() if self.reasoning else ())

    def ends(self, tokenizer: Tokenizer) -> frozenset[int]:
        """The tokens that end an answer of this format beside those of the template."""
        return harmony.end_ids(tokenizer.special_tokens) if self.has_channels else frozenset()

    def output(self) -> ReasoningOutput | None:
        """Tells thoughts of an answer apart; None where there are none."""
        return ReasoningOutput(self.reasoning, self.stage) if self.reasoning else None


def chat_prompt(
    served: ServedModel,
    messages: Sequence[Message],
    *,
    tools: Sequence[Tool] = (),
    variables: Mapping[str, Any] | None = None,
    add_generation_prompt: bool | None = None,
    continue_final_message: bool | None = None,
) -> ChatPrompt:
    """Raises ApiError where the model has no template, TokenizerError where it refuses.

    `variables` go to the template; so do the tools, or, where it knows none, dllama's own words about them. An
    assistant's message at the end is continued unless one of the two flags says otherwise.
    """
    template = chat_template(served, with_tools=bool(tools))
    check_room(_texts(messages, tools), served, "messages")
    continues = _continues(messages[-1], add_generation_prompt, continue_final_message)
    for name in variables or ():
        if name in _TAKEN_VARIABLES:
            raise ApiError(f"chat_template_kwargs must not have {name!r}", param="chat_template_kwargs")
    turns, described = _turns(template, messages, tools, continues)
    rendered = template.rendered(
        turns,
        add_generation_prompt=add_generation_prompt is not False and not continues,
        continue_final_message=continues,
        **(variables or {}),
        **described,
    )
    check_room([rendered.text], served, "messages")
    check_n_tokens(sum(isinstance(part, int) for part in rendered.parts), served, "messages")
    begun = text_of(messages[-1].content) if continues else ""
    has_channels = harmony.has_channels(template.source)
    reasoning = None if has_channels else reasoning_format_of(template.source, served.tokenizer)
    stage = harmony.stage_of(rendered.text) if has_channels else Stage.ANSWERS
    if reasoning is not None:
        stage = stage_within(begun, reasoning) if begun.strip() else stage_after(rendered.text, reasoning)
    ids = served.tokenizer.encode_parts(rendered.parts)
    return ChatPrompt(ids=ids, begun=begun, reasoning=reasoning, stage=stage, has_channels=has_channels)


def chat_template(served: ServedModel, *, with_tools: bool = False) -> ChatTemplate:
    """Raises ApiError where there is none."""
    if served.template is None:
        raise ApiError(
            "this model has no chat template: use /v1/completions",
            param="messages",
        )
    return served.template.with_tools if with_tools else served.template


def _turns(
    template: ChatTemplate,
    messages: Sequence[Message],
    tools: Sequence[Tool],
    continues: bool,
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The messages as the template wants them, and the variable that has the tools, where it knows of such."""
    described = [tool.model_dump(exclude_none=True) for tool in tools]
    tool_format = tool_format_of(template.source)
    variables: dict[str, Any] = {}
    if tool_format is not None:
        if described:
            variables["tools"] = described
        turns = [
            with_reasoning(with_tools(message, tool_format), message, template.source) for message in messages
        ]
        if described and isinstance(tool_format, JsonCalls) and not re.search(r"\btools\b", template.source):
            turns = one_system_message([about_tools(described, tool_format), *turns])
        if tool_format is HARMONY:
            turns = one_call_each(one_system_message(turns))
    else:
        about = [about_tools(described)] if described else []
        turns = one_system_message([*about, *all_without_tools(messages, template.source)])
    if continues and not isinstance(turns[-1]["content"], str):
        turns[-1]["content"] = text_of(messages[-1].content)
    if any(turn["role"] == "system" for turn in turns) and not template.has_system_role:
        turns = system_in_first_question(turns)
    return turns, variables


def _continues(last: Message, opens: bool | None, wanted: bool | None) -> bool:
    """Whether the answer goes on with the last message. Raises ApiError where that cannot be."""
    has_calls = isinstance(last, AssistantMessage) and bool(last.tool_calls)
    if wanted is None:
        return isinstance(last, AssistantMessage) and not has_calls and opens is None
    if wanted and opens:
        raise ApiError(
            "continue_final_message and add_generation_prompt exclude each other",
            param="continue_final_message",
        )
    if wanted and has_calls:
        raise ApiError("a message with tool_calls cannot be continued", param="continue_final_message")
    return wanted


def _texts(messages: Sequence[Message], tools: Sequence[Tool]) -> Iterator[str]:
    """What every template writes somewhere."""
    for message in messages:
        yield text_of(message.content)
        if isinstance(message, AssistantMessage):
            yield from (call.function.arguments for call in message.tool_calls or ())
    yield from (tool.function.description or "" for tool in tools)
