"""A conversation becomes token ids, by the Jinja template that came with the model.

Templates see what Hugging Face's `apply_chat_template` gives them, and run where they can be ended
(template_runner.py). The special tokens that a template writes become special ids; the same characters inside a
message do not (template_guard.py).
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import jinja2

from dllama.errors import TokenizerError
from dllama.tokenizer.base import Tokenizer
from dllama.tokenizer.builtin_templates import BUILTIN_TEMPLATES, guess_template
from dllama.tokenizer.special_names import SpecialNames
from dllama.tokenizer.template_guard import TemplateGuard
from dllama.tokenizer.template_process import Limits, environment
from dllama.tokenizer.template_runner import TemplateRunner

Message: TypeAlias = Mapping[str, Any]
"""`{"role": "user", "content": "Hello"}`, and whatever else a template knows (`tool_calls`, `name`)."""


class ChatTemplate:
    """Renders conversations with one template, for one tokenizer. Several threads may use it.

    `close` ends the processes that it runs in.
    """

    def __init__(
        self,
        source: str,
        tokenizer: Tokenizer,
        *,
        clock: Callable[[], datetime.datetime] = datetime.datetime.now,
        limits: Limits = Limits(),  # noqa: B008 - a constant
    ) -> None:
        """`clock` is what the template's strftime_now reads. Raises TokenizerError on faulty Jinja."""
        self.source = source
        self._tokenizer = tokenizer
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
        """The built-in template `name`, else the model's own, else the one that its vocabulary suggests.

        Raises TokenizerError on an unknown name, and when nothing suggests one.
        """
        if name is not None:
            if name not in BUILTIN_TEMPLATES:
                raise TokenizerError(f"no chat template {name!r}; there are {', '.join(BUILTIN_TEMPLATES)}")
            return cls(BUILTIN_TEMPLATES[name], tokenizer)
        if tokenizer.chat_template is not None:
            return cls(tokenizer.chat_template, tokenizer)
        return cls(BUILTIN_TEMPLATES[guess_template(tokenizer)], tokenizer)

    def render(
        self, messages: Sequence[Message], *, add_generation_prompt: bool, **variables: Any
    ) -> list[int]:
        """The ids of the whole conversation; `add_generation_prompt` opens the assistant's next turn.

        `variables` go to the template (`tools`, `date_string`, `enable_thinking`). Raises TokenizerError with
        the template's own words when it refuses the conversation, and when it passes a limit.
        """
        guard = TemplateGuard(self._names, (messages, variables), self.source)
        rendered = self._render(guard.hide(list(messages)), add_generation_prompt, guard.hide(variables))
        return self._tokenizer.encode_parts(
            [part if isinstance(part, int) else guard.restore(part) for part in self._names.split(rendered)]
        )

    def render_text(
        self, messages: Sequence[Message], *, add_generation_prompt: bool, **variables: Any
    ) -> str:
        """The text whose ids render returns. For people to look at: message and template look alike in it."""
        return self._render(list(messages), add_generation_prompt, variables)

    def close(self) -> None:
        """Ends the processes; a later rendering starts one again."""
        self._runner.close()

    def _render(self, messages: Any, add_generation_prompt: bool, variables: Mapping[str, Any]) -> str:
        given = {"messages": messages, "add_generation_prompt": add_generation_prompt}
        return self._runner.render(given | dict(variables), self._clock())

    def _name(self, token_id: int | None) -> str:
        return "" if token_id is None else self._tokenizer.token_bytes(token_id).decode("utf-8", "replace")
