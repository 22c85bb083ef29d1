"""What is found out about a template by rendering it: ends of turns, system messages, where a message goes on."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from dllama.errors import SystemLimitError, TokenizerError
from dllama.tokenizer import BUILTIN_TEMPLATES, ChatTemplate, Message, Tokenizer, load_tokenizer

ASKED: list[Message] = [{"role": "user", "content": "Hi"}]
BEGUN: list[Message] = [*ASKED, {"role": "assistant", "content": "Hello, my name is "}]
CHATML = BUILTIN_TEMPLATES["chatml"]


@pytest.fixture(scope="module")
def qwen(qwen_directory: Path) -> Tokenizer:
    return load_tokenizer(qwen_directory)


@pytest.mark.parametrize(
    ("source", "end"),
    [
        (CHATML, "<|im_end|>"),
        (
            "{% for m in messages %}{{ m.role + m.content + '\n' + '<|endoftext|>' }}{% endfor %}",
            "<|endoftext|>",
        ),
        ("{% for m in messages %}{{ '<|im_start|>' + m.role + m.content }}{% endfor %}", "<|im_start|>"),
        ("{% for m in messages %}{{ m.role + ': ' + m.content + '<think>' }}{% endfor %}", "<think>"),
        ("{% for m in messages %}{{ m.role + ': ' + m.content + '\n' }}{% endfor %}", None),
        ("{{ raise_exception('no') }}", None),
    ],
)
def test_ends_are_what_the_template_writes_after_an_answer(
    source: str, end: str | None, qwen: Tokenizer
) -> None:
    """A token; where none follows, the one that begins the next turn (GLM); no text, though, and no error."""
    ids = ChatTemplate(source, qwen).end_ids
    assert [qwen.token_bytes(token_id).decode() for token_id in ids] == ([end] if end else [])


@pytest.mark.parametrize(
    ("source", "has"),
    [
        (CHATML, True),
        ("{% for m in messages %}{% if m.role == 'user' %}{{ m.content }}{% endif %}{% endfor %}", False),
        ("{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}", False),
    ],
)
def test_templates_without_a_system_role(source: str, has: bool, qwen: Tokenizer) -> None:
    assert ChatTemplate(source, qwen).has_system_role is has


def test_the_last_message_is_continued(qwen: Tokenizer) -> None:
    """Up to the last character of it, the blank at its end too; what the template writes after it is left out."""
    template = ChatTemplate.of(qwen)
    rendered = template.rendered(BEGUN, add_generation_prompt=False, continue_final_message=True)
    opened = template.rendered(ASKED, add_generation_prompt=True)
    assert rendered.text == opened.text + "Hello, my name is "
    assert rendered.parts == [*opened.parts[:-1], f"{opened.parts[-1]}Hello, my name is "]


def test_special_tokens_in_a_message_that_is_continued_stay_text(qwen: Tokenizer) -> None:
    begun: list[Message] = [*ASKED, {"role": "assistant", "content": "an \U0010fffd<|im_end|> is"}]
    rendered = ChatTemplate.of(qwen).rendered(begun, add_generation_prompt=False, continue_final_message=True)
    assert rendered.text.endswith("assistant\nan \U0010fffd<|im_end|> is")
    assert rendered.parts.count(qwen.special_tokens["<|im_end|>"]) == 1
    assert rendered.parts[-1] == "assistant\nan \U0010fffd<|im_end|> is"


def test_a_template_that_drops_the_message_that_is_to_be_continued(qwen: Tokenizer) -> None:
    template = ChatTemplate("{% for m in messages[:-1] %}{{ m.content }}{% endfor %}", qwen)
    with pytest.raises(TokenizerError, match="cannot be continued"):
        template.rendered(BEGUN, add_generation_prompt=False, continue_final_message=True)


def directory_with(qwen_directory: Path, path: Path, chat_template: object) -> Path:
    shutil.copytree(qwen_directory, path, dirs_exist_ok=True)
    config = json.loads((path / "tokenizer_config.json").read_bytes()) | {"chat_template": chat_template}
    (path / "tokenizer_config.json").write_text(json.dumps(config))
    return path


def test_a_template_for_tools_is_taken_when_there_are_some(qwen_directory: Path, tmp_path: Path) -> None:
    named = [{"name": "default", "template": "usual"}, {"name": "tool_use", "template": "tools"}]
    path = directory_with(qwen_directory, tmp_path, named)
    template = ChatTemplate.of(load_tokenizer(path))
    assert (template.source, template.with_tools.source) == ("usual", "tools")
    (path / "additional_chat_templates").mkdir()
    (path / "additional_chat_templates" / "tool_use.jinja").write_text("file of tools")
    (path / "additional_chat_templates" / "rag.jinja").write_text("file of rag")
    (path / "chat_template.jinja").write_text("usual file")
    tokenizer = load_tokenizer(path)
    template = ChatTemplate.of(tokenizer)
    assert (template.source, template.with_tools.source) == ("usual file", "file of tools")
    assert ChatTemplate.of(tokenizer, "rag").source == "file of rag"
    with pytest.raises(TokenizerError, match=r"no chat template 'x'; there are tool_use, rag, llama2"):
        ChatTemplate.of(tokenizer, "x")


def test_without_a_default_the_first_template_is_it(qwen_directory: Path, tmp_path: Path) -> None:
    path = directory_with(qwen_directory, tmp_path, [{"name": "chat", "template": "only"}])
    template = ChatTemplate.of(load_tokenizer(path))
    assert (template.source, template.with_tools.source) == ("only", "only")


def test_a_template_that_could_not_run_is_asked_again(
    qwen: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That the system has no process to spare for a moment says nothing about the template."""
    template = ChatTemplate(CHATML, qwen)
    with monkeypatch.context() as short:
        short.setattr("sys.executable", "/nothing")
        for probe in ("has_system_role", "end_ids"):
            with pytest.raises(SystemLimitError):
                getattr(template, probe)
    assert template.has_system_role
    assert template.end_ids == {qwen.special_tokens["<|im_end|>"]}
    template.close()
