"""A conversation becomes token ids, by the Jinja template that came with the model.

Templates see what Hugging Face's `apply_chat_template` gives them, and run where they can be ended
(template_runner.py). The special tokens that a template writes become special ids; the same characters inside a
message do not (template_guard.py).
"""

from __future__ import annotations

import dataclasses
import datetime
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import jinja2

from dllama.errors import TokenizerError
from dllama.tokenizer.base import Tokenizer
from dllama.tokenizer.builtin_templates import BUILTIN_TEMPLATES, guess_template
from dllama.tokenizer.pipeline import is_bracketed_name
from dllama.tokenizer.special_names import SpecialNames
from dllama.tokenizer.template_guard import TemplateGuard
from dllama.tokenizer.template_process import Limits, environment
from dllama.tokenizer.template_runner import TemplateRunner

Message: TypeAlias = Mapping[str, Any]
"""`{"role": "user", "content": "Hello"}`, and whatever else a template knows (`tool_calls`, `name`)."""

_PROBE = "\U0010fffd"
"""Stands for what somebody said, where only what a template writes around it is of interest."""

_TOOL_USE = "tool_use"
"""The name under which models have a template of its own for conversations with tools."""


@dataclasses.dataclass(frozen=True)
class Rendered:
    """A conversation as text with special tokens by their names, and as parts: text between them, them as ids."""

    text: str
    parts: list[str | int]


class ChatTemplate:
    """Renders conversations with one template, for one tokenizer. Several threads may use it.

    `close` ends the processes that it runs in.
    """

    def __init__(
        self,
        source: str,
        tokenizer: Tokenizer,
        *,
        tool_use: ChatTemplate | None = None,
        clock: Callable[[], datetime.datetime] = datetime.datetime.now,
        limits: Limits = Limits(),  # noqa: B008 - a constant
    ) -> None:
        """`tool_use` goes before this one where there are tools; `clock` is what the template's strftime_now reads.

        Raises TokenizerError on faulty Jinja.
        """
        self.source = source
        self.tokenizer = tokenizer
        self._tool_use = tool_use
        self._clock = clock
        self._names = SpecialNames(tokenizer.special_tokens)
        try:
            environment(clock).parse(source)
        except (jinja2.TemplateError, RecursionError) as error:
            raise TokenizerError(f"the chat template is no sound Jinja: {error}") from error
        constants = {
            "bos_token": self._name(tokenizer.bos_id),
            "eos_token": self._name(next(iter(tokenizer.eos_ids), None)),
            "add_bos": tokenizer.add_bos,
            "special_tokens": dict(tokenizer.special_tokens),
        }
        self._runner = TemplateRunner(source, constants, limits)

    @classmethod
    def of(cls, tokenizer: Tokenizer, name: str | None = None) -> ChatTemplate:
        """The built-in template `name` or the model's of that name; else the model's own, else what its vocabulary
        suggests.

        Raises TokenizerError on an unknown name, and when nothing suggests one.
        """
        if name is not None:
            known = {**tokenizer.named_templates, **BUILTIN_TEMPLATES}
            if name not in known:
                raise TokenizerError(f"no chat template {name!r}; there are {', '.join(known)}")
            return cls(known[name], tokenizer)
        if tokenizer.chat_template is not None:
            source = tokenizer.named_templates.get(_TOOL_USE)
            tool_use = None if source is None else cls(source, tokenizer)
            return cls(tokenizer.chat_template, tokenizer, tool_use=tool_use)
        return cls(BUILTIN_TEMPLATES[guess_template(tokenizer)], tokenizer)

    @property
    def with_tools(self) -> ChatTemplate:
        """What a conversation with tools is rendered with: the model's template for that, or this one."""
        return self._tool_use or self

    def render(
        self, messages: Sequence[Message], *, add_generation_prompt: bool, **variables: Any
    ) -> list[int]:
        """The ids; see rendered."""
        rendered = self.rendered(messages, add_generation_prompt=add_generation_prompt, **variables)
        return self.tokenizer.encode_parts(rendered.parts)

    def rendered(
        self,
        messages: Sequence[Message],
        *,
        add_generation_prompt: bool,
        continue_final_message: bool = False,
        **variables: Any,
    ) -> Rendered:
        """The whole conversation; `add_generation_prompt` opens the assistant's next turn.

        With `continue_final_message` it ends with the text of the last message, whose content has to be a str.
        `variables` go to the template (`tools`, `date_string`, `enable_thinking`). Raises TokenizerError with the
        template's own words when it refuses the conversation, and when it passes a limit; SystemLimitError when the
        system has no room for the process that renders.
        """
        guard = TemplateGuard(self._names, (messages, variables), self.source)
        hidden = guard.hide([dict(message) for message in messages])
        mark = guard.unused_character() if continue_final_message else ""
        if mark:
            hidden[-1] = {**hidden[-1], "content": hidden[-1]["content"] + mark}
        written = self._render(hidden, add_generation_prompt, guard.hide(variables))
        if mark:
            written, found, _ = written.rpartition(mark)
            if not found:
                raise TokenizerError(
                    "the chat template does not write the last message: it cannot be continued"
                )
        parts = [
            part if isinstance(part, int) else guard.restore(part) for part in self._names.split(written)
        ]
        return Rendered(guard.restore(written), parts)

    @functools.cached_property
    def has_system_role(self) -> bool:
        """Whether system messages are written: some templates refuse them, or pass them over."""
        messages = [{"role": "system", "content": _PROBE}, {"role": "user", "content": "?"}]
        return _PROBE in self._probe(messages)

    @functools.cached_property
    def end_ids(self) -> frozenset[int]:
        """The token that the template writes after what the assistant said, whether or not the model's settings name
        it as an end; where that is none, the one that begins the next turn. Empty where neither is a token.

        With them those of the template for tools.
        """
        others = self._tool_use.end_ids if self._tool_use is not None else frozenset()
        asked = {"role": "user", "content": "?"}
        messages = [asked, {"role": "assistant", "content": _PROBE}]
        for conversation in (messages, [*messages, asked]):
            _, found, after = self._probe(conversation).rpartition(_PROBE)
            end = self._first_token(after.lstrip()) if found else None
            if end is not None:
                return others | {end}
        return others

    def close(self) -> None:
        """Ends the processes; a later rendering starts one again."""
        self._runner.close()
        if self._tool_use is not None:
            self._tool_use.close()

    def _probe(self, messages: Sequence[Message]) -> str:
        """What it writes; nothing where it refuses."""
        try:
            return self._render(messages, False, {})
        except TokenizerError:
            return ""

    def _first_token(self, text: str) -> int | None:
        """The special token, or the token with a name in brackets, that `text` begins with."""
        before, *after = self._names.split(text)
        if not before:
            return next((part for part in after if isinstance(part, int)), None)
        ids = self.tokenizer.encode(str(before))
        pieces = [
            (token_id, self.tokenizer.token_bytes(token_id).decode("utf-8", "replace")) for token_id in ids
        ]
        token_id, piece = next(((i, piece) for i, piece in pieces if piece.strip()), (None, ""))
        return token_id if is_bracketed_name(piece) else None

    def _render(self, messages: Any, add_generation_prompt: bool, variables: Mapping[str, Any]) -> str:
        given = {"messages": messages, "add_generation_prompt": add_generation_prompt}
        return self._runner.render(given | dict(variables), self._clock())

    def _name(self, token_id: int | None) -> str:
        return "" if token_id is None else self.tokenizer.token_bytes(token_id).decode("utf-8", "replace")
