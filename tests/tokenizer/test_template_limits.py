"""A chat template ends, whatever it computes; what it was about is said, and the next conversation is rendered."""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from dllama.errors import SystemLimitError, TokenizerError
from dllama.tokenizer import ChatTemplate, Message, Tokenizer, load_tokenizer
from dllama.tokenizer.template_process import Limits
from support.killed import start_and_kill
from support.processes import TIMEOUT_S

LIMITS = Limits(time_s=0.2, memory_bytes=200 << 20, n_characters=1 << 20)

FINE: list[Message] = [{"role": "user", "content": "fine"}]
EVIL: list[Message] = [{"role": "user", "content": "evil"}]

TIME, MEMORY, LENGTH, WORDS = "more than 0.2 s", "more than 200 MB", "over 1048576 characters", "refuses"

ENDLESS = {
    "nested loops": ("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}", TIME),
    "a large product": ("{{ 'a' * 10**10 }}", MEMORY),
    "a large list": ("{{ ([0] * 10**9) | length }}", MEMORY),
    "a wide indent": ("{{ messages | tojson(indent=10**9) }}", MEMORY),
    "a wide column": ("{{ 'a' | center(10**10) }}{{ '%9999999999d' % 1 }}", MEMORY),
    "a huge range": ("{% for a in range(10**12) %}{% endfor %}", WORDS),
    "a huge power": ("{{ (9 + messages | length) ** (10 ** 10) }}", f"{TIME}|{MEMORY}"),
    "macros that call themselves twice": (
        "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
        TIME,
    ),
    "a macro that calls itself for ever": ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", WORDS),
    "doubling": (
        "{% set n = namespace(x='ab') %}{% for i in range(60) %}{% set n.x = n.x ~ n.x %}{% endfor %}{{ n.x }}",
        MEMORY,
    ),
    "lists that double as text": (
        "{% set n = namespace(x=['ab']) %}{% for i in range(60) %}{% set n.x = [n.x, n.x] %}{% endfor %}{{ n.x }}",
        f"{TIME}|{MEMORY}",
    ),
    "a long text": ("{% for i in range(99999) %}{{ 'twenty characters....' }}{% endfor %}", LENGTH),
    "filler": ("{{ lipsum(n=10**9) }}", f"{TIME}|{MEMORY}"),
}


@pytest.fixture(scope="module")
def qwen(qwen_directory: Path) -> Tokenizer:
    return load_tokenizer(qwen_directory)


@pytest.fixture
def template(qwen: Tokenizer, request: pytest.FixtureRequest) -> Iterator[ChatTemplate]:
    source = "{% if messages[0].content == 'evil' %}" + request.param + "{% else %}fine{% endif %}"
    template = ChatTemplate(source, qwen, limits=LIMITS)
    yield template
    template.close()


@pytest.mark.parametrize(("template", "why"), ENDLESS.values(), ids=ENDLESS.keys(), indirect=["template"])
def test_a_template_that_would_not_end_is_ended(template: ChatTemplate, why: str, qwen: Tokenizer) -> None:
    with pytest.raises(TokenizerError, match=why):
        template.render(EVIL, add_generation_prompt=False)
    assert template.render(FINE, add_generation_prompt=False) == qwen.encode("fine")


def test_constant_expressions_are_not_computed_here(qwen: Tokenizer) -> None:
    """Jinja computes them when it compiles a template."""
    template = ChatTemplate("{{ 'a' | center(10**10) }}", qwen, limits=LIMITS)
    with pytest.raises(TokenizerError, match=MEMORY):
        template.render(EVIL, add_generation_prompt=False)


def children() -> set[int]:
    return {child.pid for child in psutil.Process().children()}


def test_processes_end_with_their_template(qwen: Tokenizer) -> None:
    before = children()
    template = ChatTemplate("fine", qwen)
    template.render(FINE, add_generation_prompt=False)
    assert len(children() - before) == 1
    template.close()
    assert children() <= before
    template.render(FINE, add_generation_prompt=False)
    del template
    assert children() <= before


def test_a_process_is_not_kept_that_had_much_to_hold(qwen: Tokenizer) -> None:
    before = children()
    template = ChatTemplate("fine", qwen)
    template.render([{"role": "user", "content": "x" * (1 << 20)}], add_generation_prompt=False)
    assert children() <= before


def test_one_process_is_kept_however_many_were_needed_at_once(qwen: Tokenizer) -> None:
    before = children()
    template = ChatTemplate("{% for i in range(9) %}{{ messages[0].content }}{% endfor %}", qwen)
    all_are_here = threading.Barrier(8)

    def render() -> None:
        all_are_here.wait(TIMEOUT_S)
        template.render(FINE, add_generation_prompt=False)

    threads = [threading.Thread(target=render) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(children() - before) == 1
    template.close()


def test_a_process_that_was_killed_is_started_again(qwen: Tokenizer) -> None:
    before = children()
    template = ChatTemplate("fine", qwen)
    for _ in range(2):
        assert template.render(FINE, add_generation_prompt=False) == qwen.encode("fine")
        for pid in children() - before:
            psutil.Process(pid).kill()
            psutil.wait_procs([psutil.Process(pid)], TIMEOUT_S)
    template.close()


@pytest.mark.parametrize("n_characters", [4, 1 << 19], ids=["short", "longer than a pipe"])
def test_a_process_that_was_stopped_is_not_waited_for_without_end(
    n_characters: int, qwen: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = children()
    template = ChatTemplate("fine", qwen)
    template.render(FINE, add_generation_prompt=False)
    for pid in children() - before:
        psutil.Process(pid).suspend()
    with monkeypatch.context() as hurry:
        hurry.setattr("dllama.tokenizer.template_runner._PATIENCE_S", 0.1)
        with pytest.raises(SystemLimitError, match="too busy"):
            template.render([{"role": "user", "content": "x" * n_characters}], add_generation_prompt=False)
    assert children() <= before
    assert template.render(FINE, add_generation_prompt=False) == qwen.encode("fine")
    template.close()


def test_a_process_that_is_killed_when_it_is_asked_is_no_fault_of_the_template(
    qwen: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = children()
    template = ChatTemplate("fine", qwen)
    template.render(FINE, add_generation_prompt=False)
    for pid in children() - before:
        psutil.Process(pid).kill()
    monkeypatch.setattr(subprocess.Popen, "poll", lambda process: process.returncode)  # it looks alive
    assert template.render(FINE, add_generation_prompt=False) == qwen.encode("fine")
    template.close()


def test_processes_that_are_killed_each_time_are_no_fault_of_the_template(
    qwen: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lack of memory, of which nothing is concluded."""
    template = ChatTemplate("{{ messages[0].content }}", qwen)

    with monkeypatch.context() as deadly:
        deadly.setattr("dllama.tokenizer.template_runner.start_limited", start_and_kill)
        with pytest.raises(SystemLimitError, match="was killed"):
            _ = template.has_system_role
    assert template.has_system_role
    template.close()


def test_one_conversation_does_not_wait_for_another(qwen: Tokenizer) -> None:
    """The slow one is still under way when the quick one is done."""
    loops = (
        "{% for i in range(99999) if messages[0].content == 'evil' %}{% for i in range(99999) %}{% endfor %}"
    )
    template = ChatTemplate(loops + "{% endfor %}", qwen, limits=Limits(time_s=0.5))
    errors: list[TokenizerError] = []
    begun = threading.Event()

    def slow() -> None:
        begun.set()
        with pytest.raises(TokenizerError, match=r"more than 0\.5 s") as caught:
            template.render(EVIL, add_generation_prompt=False)
        errors.append(caught.value)

    thread = threading.Thread(target=slow)
    thread.start()
    begun.wait(TIMEOUT_S)
    start = time.thread_time()
    assert template.render(FINE, add_generation_prompt=False) == []
    assert time.thread_time() - start < 0.5
    assert thread.is_alive()
    thread.join(TIMEOUT_S)
    assert errors
