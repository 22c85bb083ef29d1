"""A conversation with a thought, a call and its result, as transformers renders it by the models' own templates.

Written by tools/make_prompt_goldens.py; skipped where the templates are not.
"""

from __future__ import annotations

import contextlib
import datetime
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dllama.server.prompt import chat_prompt
from dllama.server.requests import ChatRequest
from dllama.tokenizer import ChatTemplate, load_tokenizer
from dllama.tokenizer.chat import Rendered
from support.processes import DEMO_MODEL

FOLDER = Path(__file__).parents[3] / "shared" / "real" / "templates"
GOLDENS = json.loads(Path(__file__).with_name("prompt_goldens.json").read_text(encoding="utf-8"))
TOKENIZER = load_tokenizer(DEMO_MODEL)

pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason=f"{FOLDER} is not there")


class Recording(ChatTemplate):
    """Keeps what it wrote."""

    text = ""

    def rendered(self, *args: Any, **options: Any) -> Rendered:
        rendered = super().rendered(*args, **options)
        self.text = rendered.text
        return rendered


def as_clients_send_it(message: dict[str, Any]) -> dict[str, Any]:
    """Arguments are text, and a thought has one name."""
    sent = {name: value for name, value in message.items() if name != "thinking"}
    sent["tool_calls"] = [
        {**call, "function": {**call["function"], "arguments": json.dumps(call["function"]["arguments"])}}
        for call in message.get("tool_calls", ())
    ]
    return sent if sent["tool_calls"] else {name: sent[name] for name in sent if name != "tool_calls"}


@pytest.mark.parametrize("name", GOLDENS["prompts"])
def test_prompts_are_those_of_transformers(name: str) -> None:
    source = (FOLDER / f"{name}.jinja").read_text(encoding="utf-8")
    with contextlib.closing(
        Recording(source, TOKENIZER, clock=lambda: datetime.datetime(2026, 1, 2))
    ) as template:
        served: Any = SimpleNamespace(
            template=template, tokenizer=TOKENIZER, max_seq_len=100_000, max_text_bytes=10**6
        )
        messages = [as_clients_send_it(message) for message in GOLDENS["messages"]]
        request = ChatRequest.model_validate_json(
            json.dumps({"messages": messages, "tools": GOLDENS["tools"]})
        )
        chat_prompt(served, request.messages, tools=request.tools or ())
        (bos,) = (token for token, number in TOKENIZER.special_tokens.items() if number == TOKENIZER.bos_id)
        assert template.text == GOLDENS["prompts"][name].replace("<BOS>", bos)
