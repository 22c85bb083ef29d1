"""Conversations with tools, as templates of each kind get to see them."""

from __future__ import annotations

import json
from typing import Any

import pydantic
import pytest

from dllama.server.errors import ApiError
from dllama.server.prompt import chat_prompt
from dllama.server.requests import ChatRequest
from dllama.tokenizer import ChatTemplate, load_tokenizer
from support.processes import DEMO_MODEL

TOKENIZER = load_tokenizer(DEMO_MODEL)
TOOL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}
MESSAGES = [
    {"role": "developer", "content": [{"type": "text", "text": "Be "}, {"type": "text", "text": "brief."}]},
    {"role": "user", "content": "1 + 2?"},
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {"id": "call_12345", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
        ],
    },
    {"role": "tool", "tool_call_id": "call_12345", "content": "3"},
]


class Served:
    """A model as far as prompts are concerned."""

    def __init__(self, source: str | None) -> None:
        self.template = ChatTemplate(source, TOKENIZER) if source is not None else None
        self.max_seq_len, self.max_text_bytes = 1000, 100_000


def text_of(source: str | None, **fields: Any) -> str:
    request = ChatRequest.model_validate_json(json.dumps({"messages": MESSAGES} | fields))
    served: Any = Served(source)
    ids = chat_prompt(
        served, request.messages, tools=request.tools or (), variables=request.chat_template_kwargs
    )
    return TOKENIZER.decode(ids)


def test_templates_that_know_tools_get_objects() -> None:
    messages = json.loads(text_of("{#<tool_call>#}{{ messages | tojson }}"))
    assert messages[0] == {"role": "system", "content": "Be brief."}
    assert messages[2]["content"] == ""
    assert messages[2]["tool_calls"][0]["function"] == {"name": "add", "arguments": {"a": 1}}
    assert messages[3] == {"role": "tool", "content": "3", "tool_call_id": "call_12345"}
    tools = text_of("{#<tool_call>#}{{ tools | tojson if tools else 'none' }}", tools=[TOOL])
    assert json.loads(tools) == [TOOL]
    assert text_of("{#<tool_call>#}{{ tools | tojson if tools else 'none' }}") == "none"


def test_ids_that_a_template_wants_short() -> None:
    """Mistral's templates refuse ids that are not 9 letters and digits; call and result keep the same one."""
    messages = json.loads(text_of("{#[TOOL_CALLS]#}{{ messages | tojson }}"))
    call_id = messages[2]["tool_calls"][0]["id"]
    assert len(call_id) == 9
    assert call_id.isalnum()
    assert messages[3]["tool_call_id"] == call_id


def test_templates_that_know_no_tools_get_text() -> None:
    messages = json.loads(text_of("{{ messages | tojson }}", tools=[TOOL]))
    assert [message["role"] for message in messages] == ["system", "user", "assistant", "user"]
    assert json.dumps(TOOL) in messages[0]["content"]
    assert messages[0]["content"].endswith("Be brief.")
    assert messages[2]["content"] == '<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>'
    assert messages[3]["content"] == "<tool_response>\n3\n</tool_response>"


def test_variables() -> None:
    assert text_of("{{ enable_thinking }}", chat_template_kwargs={"enable_thinking": False}) == "False"
    for name in ("messages", "tools", "add_generation_prompt", "self"):
        with pytest.raises(ApiError, match=name):
            text_of("x", chat_template_kwargs={name: 1})


def test_no_template() -> None:
    with pytest.raises(ApiError, match="no chat template"):
        text_of(None)


def test_a_message_of_the_wrong_kind() -> None:
    with pytest.raises(pydantic.ValidationError):
        text_of("x", messages=[{"role": "tool", "content": "x"}])
