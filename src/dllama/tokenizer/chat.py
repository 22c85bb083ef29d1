"""A conversation becomes token ids, by the Jinja template that came with the model.

Templates are other people's programs: they run in Jinja's immutable sandbox. They see what Hugging Face's
`apply_chat_template` gives them (https://huggingface.co/docs/transformers/chat_templating_writing).

The special tokens that a template writes become special ids; the same characters inside a message do not.
Before rendering, the first character of every special token's name within a message is replaced by a stand-in
from a private-use plane; the rendered text is cut at the special tokens that are still there, and in the rest
the stand-ins are turned back.
"""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.parser
import jinja2.sandbox

from dllama.errors import TokenizerError
from dllama.tokenizer.base import Tokenizer
from dllama.tokenizer.builtin_templates import BUILTIN_TEMPLATES, guess_template

Message: TypeAlias = Mapping[str, Any]
"""`{"role": "user", "content": "Hello"}`, and whatever else a template knows (`tool_calls`, `name`)."""

_PRIVATE_PLANE = range(0x10FFFD, 0x100000, -1)

_ERRORS_OF_EXPRESSIONS = (
    TypeError,
    ValueError,
    LookupError,
    AttributeError,
    ArithmeticError,
    RecursionError,
)
"""What Jinja lets through when a template adds a string to None, and the like."""


class ChatTemplate:
    """Renders conversations with one template, for one tokenizer."""

    def __init__(
        self,
        source: str,
        tokenizer: Tokenizer,
        *,
        clock: Callable[[], datetime.datetime] = datetime.datetime.now,
    ) -> None:
        """`clock` is what the template's strftime_now reads. Raises TokenizerError on faulty Jinja."""
        self.source = source
        self._tokenizer = tokenizer
        self._names = _pattern(tokenizer.special_tokens)
        try:
            self._template = _environment(clock).from_string(source)
        except jinja2.TemplateError as error:
            raise TokenizerError(f"the chat template is no sound Jinja: {error}") from error

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
        the template's own words when it refuses the conversation.
        """
        guard = _Guard(self._names, (messages, variables), self.source)
        rendered = self._render(guard.hide(list(messages)), add_generation_prompt, guard.hide(variables))
        return self._tokenizer.encode_parts(
            [part if isinstance(part, int) else guard.restore(part) for part in self._parts(rendered)]
        )

    def render_text(
        self, messages: Sequence[Message], *, add_generation_prompt: bool, **variables: Any
    ) -> str:
        """The text whose ids render returns. For people to look at: message and template look alike in it."""
        return self._render(list(messages), add_generation_prompt, variables)

    def _render(self, messages: Any, add_generation_prompt: bool, variables: Mapping[str, Any]) -> str:
        tokenizer = self._tokenizer
        given = {
            "messages": messages,
            "add_generation_prompt": add_generation_prompt,
            "bos_token": self._name(tokenizer.bos_id),
            "eos_token": self._name(next(iter(tokenizer.eos_ids), None)),
            "add_bos": tokenizer.add_bos,
            "special_tokens": tokenizer.special_tokens,
        }
        try:
            return self._template.render(given | dict(variables))
        except (jinja2.TemplateError, *_ERRORS_OF_EXPRESSIONS) as error:
            raise TokenizerError(f"the chat template refuses the conversation: {error}") from error

    def _parts(self, rendered: str) -> list[str | int]:
        """The rendered text, with its special tokens as their ids."""
        if self._names is None:
            return [rendered]
        parts = re.split(f"({self._names.pattern})", rendered)
        special_tokens = self._tokenizer.special_tokens
        return [special_tokens[part] if number % 2 else part for number, part in enumerate(parts)]

    def _name(self, token_id: int | None) -> str:
        return "" if token_id is None else self._tokenizer.token_bytes(token_id).decode("utf-8", "replace")


class _Guard:
    """Hides the names of special tokens in what users wrote, and brings them back."""

    def __init__(self, names: re.Pattern[str] | None, given: object, template: str) -> None:
        """`given` is all that comes from outside; stand-ins are characters that are in none of it."""
        strings = _strings(given)
        self._stand_in: dict[str, str] = {}
        if names is not None and any(map(names.search, strings)):
            # Every place where some name begins, as names may overlap.
            self._initials = re.compile(f"(?=(?:{names.pattern})).", re.DOTALL)
            initials = {initial for string in strings for initial in self._initials.findall(string)}
            taken = set(template).union(*strings)
            free = (chr(code) for code in _PRIVATE_PLANE if chr(code) not in taken)
            self._stand_in = dict(zip(sorted(initials), free, strict=False))
        self._restoring = {ord(stand_in): initial for initial, stand_in in self._stand_in.items()}

    def hide(self, value: Any) -> Any:
        """`value` with all its strings, at any depth, made harmless. Nothing is mutated."""
        if isinstance(value, str):
            if not self._stand_in:
                return value
            return self._initials.sub(lambda found: self._stand_in[found[0]], value)
        if isinstance(value, Mapping):
            return {self.hide(key): self.hide(item) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [self.hide(item) for item in value]
        return value

    def restore(self, text: str) -> str:
        return text.translate(self._restoring) if self._restoring else text


def _strings(value: object) -> list[str]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, Mapping):
        return [string for pair in value.items() for item in pair for string in _strings(item)]
    if isinstance(value, (list, tuple)):
        return [string for item in value for string in _strings(item)]
    return []


def _pattern(special_tokens: Mapping[str, int]) -> re.Pattern[str] | None:
    """Matches any special token, the longest where several begin; None when there is none."""
    names = sorted(filter(None, special_tokens), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, names))) if names else None


def _environment(clock: Callable[[], datetime.datetime]) -> jinja2.Environment:
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationTag, jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = lambda form: clock().strftime(form)
    return environment


class _GenerationTag(jinja2.ext.Extension):
    """`{% generation %}...{% endgeneration %}` marks the assistant's words for training: here, its body."""

    tags = {"generation"}  # noqa: RUF012 - Jinja's own interface

    def parse(self, parser: jinja2.parser.Parser) -> list[jinja2.nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """JSON as it is; Jinja's own filter escapes characters for HTML."""
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)
