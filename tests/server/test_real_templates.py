"""The templates that models are published with (../shared/real/templates; skipped where they are not)."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dllama.answers.reasoning_formats import Stage
from dllama.server.prompt import chat_prompt
from dllama.server.requests import ChatRequest
from dllama.tokenizer import ChatTemplate, load_tokenizer
from support.processes import DEMO_MODEL

FOLDER = Path(__file__).parents[3] / "shared" / "real" / "templates"
TEMPLATES = sorted(FOLDER.glob("*.jinja"))
TOKENIZER = load_tokenizer(DEMO_MODEL)

pytestmark = pytest.mark.skipif(not TEMPLATES, reason=f"{FOLDER} is not there")

PARAMETERS = {"type": "object", "properties": {"a": {"type": "integer", "description": "a number"}}}
TOOL = {"type": "function", "function": {"name": "add", "description": "adds", "parameters": PARAMETERS}}
SYSTEM = {"role": "system", "content": "Be brief."}
ASKED = {"role": "user", "content": "1 + 2?"}
CALLED = {
    "role": "assistant",
    "content": None,
    "tool_calls": [
        {"id": "call_12345", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
    ],
}
RESULT = {"role": "tool", "tool_call_id": "call_12345", "content": "It is 3"}
ANSWERED = {"role": "assistant", "content": "Three.", "reasoning_content": "Hm"}

CONVERSATIONS: dict[str, tuple[list[dict[str, Any]], list[str]]] = {
    "a system message": ([SYSTEM, ASKED], ["Be brief.", "1 + 2?"]),
    "results of a call": ([ASKED, CALLED, RESULT], ["add", "It is 3"]),
    "results of two calls": ([SYSTEM, ASKED, CALLED, RESULT, RESULT], ["It is 3"]),
    "a turn after a call": ([ASKED, CALLED, RESULT, ANSWERED, ASKED], ["It is 3", "Three.", "1 + 2?"]),
}

THINKS = {
    "google-gemma-4-31B-it": Stage.ANSWERS,
    "GLM-4.7-Flash": Stage.THINKS,
    "Qwen-Qwen3-0.6B": Stage.MAY_THINK,
    "Qwen3.5-4B": Stage.THINKS,
    "HuggingFaceTB-SmolLM3-3B": Stage.MAY_THINK,
    "deepseek-ai-DeepSeek-R1-Distill-Llama-8B": Stage.THINKS,
    "deepseek-ai-DeepSeek-V3.1": Stage.ANSWERS,
    "mistralai-Ministral-3-14B-Reasoning-2512": Stage.MAY_THINK,
}


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.stem)
def test_conversations_of_every_kind(path: Path) -> None:
    """With and without tools, none is refused, and what was said is written; an answer that has begun goes on."""
    with contextlib.closing(ChatTemplate(path.read_text(encoding="utf-8"), TOKENIZER)) as template:
        served: Any = SimpleNamespace(
            template=template, tokenizer=TOKENIZER, max_seq_len=100_000, max_text_bytes=10**6
        )

        def text(messages: list[dict[str, Any]], **fields: Any) -> str:
            request = ChatRequest.model_validate_json(json.dumps({"messages": messages, **fields}))
            prompt = chat_prompt(served, request.messages, tools=request.tools or ())
            if path.stem in THINKS and messages == [SYSTEM, ASKED] and not fields:
                assert prompt.stage is THINKS[path.stem]
            return TOKENIZER.decode(prompt.ids)

        for what, (messages, said) in CONVERSATIONS.items():
            for tools in ([], [TOOL]):
                written = text(messages, tools=tools) if tools else text(messages)
                assert [word for word in said if word not in written] == [], what
                assert not tools or "adds" in written
        assert text([ASKED, {"role": "assistant", "content": "It is "}]).endswith("It is ")
        assert template.has_system_role is (path.stem != "google-gemma-2-2b-it")
