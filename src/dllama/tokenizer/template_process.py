"""A program that renders one chat template, in a process that may be killed. See template_runner.py.

Templates are other people's programs, and what they compute depends on what clients send. Loops, and single
operations such as `"a" * 10**10`, end only with the process that runs them: so they run here, under limits that the
operating system keeps.

Requests and answers are JSON, each after its length (4 bytes, little endian). The first request is the set-up:
`source`, `constants`, `limits`. Each later one is `variables` and `now`; the answer has `text` or `error`. The end
of the input ends the process.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
import struct
import sys
from collections.abc import Callable
from typing import Any, BinaryIO

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.parser
import jinja2.sandbox

from dllama.host.limited_process import limit_process, limit_time

LENGTH = struct.Struct("<I")

_ERRORS_OF_EXPRESSIONS = (
    TypeError,
    ValueError,
    LookupError,
    AttributeError,
    ArithmeticError,
    RecursionError,
)
"""What Jinja lets through when a template adds a string to None, and the like."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Limits:
    """Limits of one rendering: processor time, the address space of its process, the characters of its text.

    100 000 messages take 1 s and 200 MB on a desktop.
    """

    time_s: float = 5.0
    memory_bytes: int = 1 << 30
    n_characters: int = 1 << 25


class _TooLongError(Exception):
    """More characters than there may be."""


def environment(clock: Callable[[], datetime.datetime]) -> jinja2.Environment:
    """What Hugging Face's `apply_chat_template` gives to templates, in Jinja's sandbox
    (https://huggingface.co/docs/transformers/chat_templating_writing), where lists may grow, as one of Kimi K2's
    templates has it: what there is here is a copy. `clock` is what strftime_now reads."""
    environment = jinja2.sandbox.SandboxedEnvironment(
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


class _Renderer:
    def __init__(self, source: str, constants: dict[str, Any], limits: Limits) -> None:
        self._source = source
        self._constants = constants
        self._limits = limits
        self._template: jinja2.Template | None = None
        self._now = datetime.datetime.min

    def answer(self, request: dict[str, Any]) -> dict[str, str]:
        """`text`, or `error` with the template's own words or the limit that was passed."""
        self._now = datetime.datetime.fromisoformat(request["now"])
        try:
            return {"text": self._render(request["variables"])}
        except jinja2.TemplateSyntaxError as error:
            return {"error": f"the chat template is no sound Jinja: {error}"}
        except _TooLongError:
            return {
                "error": f"the chat template was ended: it wrote over {self._limits.n_characters} characters"
            }
        except MemoryError:
            n_mb = self._limits.memory_bytes >> 20
            return {"error": f"the chat template was ended: it wanted more than {n_mb} MB of memory"}
        except (jinja2.TemplateError, *_ERRORS_OF_EXPRESSIONS) as error:
            return {"error": f"the chat template refuses the conversation: {str(error)[:10_000]}"}

    def _render(self, variables: dict[str, Any]) -> str:
        if self._template is None:  # not before: constant expressions are computed when it is compiled
            self._template = environment(lambda: self._now).from_string(self._source)
        pieces, room = [], self._limits.n_characters
        for piece in self._template.generate(self._constants | variables):
            pieces.append(piece)
            room -= len(piece)
            if room < 0:
                raise _TooLongError
        return "".join(pieces)


def _read(stream: BinaryIO) -> Any:
    """The next message; None at the end."""
    header = stream.read(LENGTH.size)
    return json.loads(stream.read(*LENGTH.unpack(header))) if len(header) == LENGTH.size else None


def _write(stream: BinaryIO, message: dict[str, str]) -> None:
    content = json.dumps(message).encode()
    stream.write(LENGTH.pack(len(content)) + content)
    stream.flush()


def main() -> None:
    requests, answers = sys.stdin.buffer, sys.stdout.buffer
    set_up = _read(requests)
    limits = Limits(**set_up["limits"])
    limit_process(limits.memory_bytes)
    renderer = _Renderer(set_up["source"], set_up["constants"], limits)
    while (request := _read(requests)) is not None:
        limit_time(limits.time_s)
        answer = renderer.answer(request)
        limit_time(0)
        _write(answers, answer)


if __name__ == "__main__":
    main()
