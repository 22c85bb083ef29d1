"""Conversations with tools, as templates of each kind get to see them."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pydantic
import pytest

from dllama.answers.reasoning_formats import Stage
from dllama.server.errors import ApiError
from dllama.server.prompt import ChatPrompt, chat_prompt
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

    def __init__(self, source: str | None, tool_use: str | None = None) -> None:
        for_tools = ChatTemplate(tool_use, TOKENIZER) if tool_use is not None else None
        self.template = ChatTemplate(source, TOKENIZER, tool_use=for_tools) if source is not None else None
        self.tokenizer = TOKENIZER
        self.max_seq_len, self.max_text_bytes = 1000, 100_000


def prompt_of(source: str | None, *, tool_use: str | None = None, **fields: Any) -> ChatPrompt:
    request = ChatRequest.model_validate_json(json.dumps({"messages": MESSAGES} | fields))
    served: Any = Served(source, tool_use)
    return chat_prompt(
        served,
        request.messages,
        tools=request.tools or (),
        variables=request.chat_template_kwargs,
        add_generation_prompt=request.add_generation_prompt,
        continue_final_message=request.continue_final_message,
    )


def text_of(source: str | None, **fields: Any) -> str:
    return TOKENIZER.decode(prompt_of(source, **fields).ids)


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


def test_too_many_turns_are_refused_before_ids_are_made_of_them() -> None:
    """What a template writes counts: a body of 4 MB has room for 100 000 messages without a word."""

    def no_ids(parts: object) -> None:
        raise AssertionError("ids are made of what cannot fit")

    served: Any = Served("{% for m in messages %}<|eot_id|>{% endfor %}")
    served.tokenizer = SimpleNamespace(encode_parts=no_ids)
    request = ChatRequest.model_validate({"messages": [{"role": "user", "content": ""}] * 1001})
    with pytest.raises(ApiError, match="1001 tokens and the context 1000"):
        chat_prompt(served, request.messages)


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


# Templates without a system role, and such for tools alone

ALTERNATING = (
    "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles have to alternate') }}{% endif %}{% endfor %}"
)


def test_tools_where_the_template_has_no_system_role() -> None:
    """What the model is told of them stands before what the user asks; results of several calls are one turn."""
    messages = json.loads(text_of(ALTERNATING + "{{ messages | tojson }}", tools=[TOOL]))
    assert [message["role"] for message in messages] == ["user", "assistant", "user"]
    assert json.dumps(TOOL) in messages[0]["content"]
    assert messages[0]["content"].endswith("Be brief.\n\n1 + 2?")
    two = [*MESSAGES, MESSAGES[-1], {"role": "user", "content": "And now?"}]
    messages = json.loads(text_of(ALTERNATING + "{{ messages | tojson }}", messages=two))
    response = "<tool_response>\n3\n</tool_response>"
    assert messages[-1] == {"role": "user", "content": f"{response}\n{response}\nAnd now?"}


def test_a_template_for_tools() -> None:
    usual, tool_use = "usual {{ (messages | last).content }}", "{#<tool_call>#}{{ tools | tojson }}"
    assert text_of(usual, tool_use=tool_use) == "usual <tool_response>\n3\n</tool_response>"
    assert json.loads(text_of(usual, tool_use=tool_use, tools=[TOOL])) == [TOOL]


# Messages that are continued

BEGUN = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello, my name is "}]
CHATML = (
    "{% for m in messages %}{{ '<' + m.role + '>' + m.content + '</s>' }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({}, "<user>Hi</s><assistant>Hello, my name is "),
        ({"continue_final_message": True}, "<user>Hi</s><assistant>Hello, my name is "),
        (
            {"add_generation_prompt": False, "continue_final_message": True},
            "<user>Hi</s><assistant>Hello, my name is ",
        ),
        ({"continue_final_message": False}, "<user>Hi</s><assistant>Hello, my name is </s><assistant>"),
        ({"add_generation_prompt": True}, "<user>Hi</s><assistant>Hello, my name is </s><assistant>"),
        ({"add_generation_prompt": False}, "<user>Hi</s><assistant>Hello, my name is </s>"),
        ({"messages": BEGUN[:1]}, "<user>Hi</s><assistant>"),
        ({"messages": BEGUN[:1], "continue_final_message": True}, "<user>Hi"),
        ({"messages": BEGUN[:1], "add_generation_prompt": False}, "<user>Hi</s>"),
    ],
)
def test_an_assistants_message_at_the_end_is_continued(fields: dict[str, Any], text: str) -> None:
    assert text_of(CHATML, **{"messages": BEGUN, **fields}) == text


def test_what_cannot_be_continued() -> None:
    with pytest.raises(ApiError, match="exclude each other"):
        text_of(CHATML, messages=BEGUN, add_generation_prompt=True, continue_final_message=True)
    with pytest.raises(ApiError, match="tool_calls cannot be continued"):
        text_of(CHATML, messages=MESSAGES[:3], continue_final_message=True)
    assert text_of(CHATML, messages=MESSAGES[:3]).endswith("</s><assistant>")


# What the model thinks


@pytest.mark.parametrize(
    ("opens", "stage"),
    [
        ("", Stage.MAY_THINK),
        ("<think>\n", Stage.THINKS),
        ("<think>\n\n</think>\n\n", Stage.ANSWERS),
    ],
)
def test_where_an_answer_begins(opens: str, stage: Stage) -> None:
    """A user who says how thoughts are marked changes nothing."""
    asked = [{"role": "user", "content": "What does <think> mean?"}]
    prompt = prompt_of(CHATML + "{#</think>#}" + opens, messages=asked)
    assert prompt.reasoning is not None
    assert prompt.stage is stage
    assert prompt_of(CHATML, messages=asked).reasoning is None


@pytest.mark.parametrize(
    ("begun", "stage"),
    [("<think>\nIt is", Stage.THINKS), ("<think>why</think>It is", Stage.ANSWERS), ("It is", Stage.ANSWERS)],
)
def test_where_an_answer_goes_on(begun: str, stage: Stage) -> None:
    messages = [BEGUN[0], {"role": "assistant", "content": begun}]
    prompt = prompt_of(CHATML + "{#</think>#}", messages=messages)
    assert (prompt.stage, prompt.begun) == (stage, begun)


def test_templates_get_what_was_thought() -> None:
    for name in ("reasoning_content", "reasoning"):
        thought = [BEGUN[0], {"role": "assistant", "content": "Yes", name: "why"}, BEGUN[0]]
        for source in ("{#<tool_call>#}{{ messages | tojson }}", "{{ messages | tojson }}"):
            messages = json.loads(text_of(source, messages=thought))
            assert messages[1] == {"role": "assistant", "content": "Yes", "reasoning_content": "why"}
        gpt_oss = json.loads(text_of("{#.thinking#}{{ messages | tojson }}", messages=thought))
        assert gpt_oss[1]["thinking"] == "why"
        mistral = json.loads(text_of("{#[THINK]thinking#}{{ messages | tojson }}", messages=thought))
        assert mistral[1]["content"] == [
            {"type": "thinking", "thinking": "why"},
            {"type": "text", "text": "Yes"},
        ]
