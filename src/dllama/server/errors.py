"""What goes wrong with a request, in OpenAI's shape and with the status that its clients expect."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pydantic
from starlette.responses import Response

from dllama.errors import (
    ContextFullError,
    DllamaError,
    NumericalError,
    PeerError,
    QueueFullError,
    SystemLimitError,
    TokenizerError,
    UsageError,
)
from dllama.plain_text import plain_line
from dllama.server.responses import ErrorBody, ErrorResponse


class ApiError(DllamaError):
    """A request that is answered with an error."""

    def __init__(
        self,
        message: str,
        *,
        status: int = 400,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.param = param
        self.code = code
        self.headers = dict(headers or {})

    @property
    def body(self) -> ErrorResponse:
        return ErrorResponse(
            error=ErrorBody(message=str(self), type=_type_of(self.status), param=self.param, code=self.code)
        )

    def response(self) -> Response:
        return Response(self.body.model_dump_json(), self.status, self.headers, media_type="application/json")


def api_error(error: DllamaError) -> ApiError:
    """How a fault that the engine, the tokenizer or a node reports is told to the client."""
    if isinstance(error, ApiError):
        return error
    message = str(error)
    if isinstance(error, ContextFullError):
        return ApiError(message, code="context_length_exceeded")
    if isinstance(error, QueueFullError):
        retry_after_s = max(1, math.ceil(error.retry_after_s))
        return ApiError(message, status=429, code="queue_full", headers={"Retry-After": str(retry_after_s)})
    if isinstance(error, PeerError):
        return ApiError(message, status=503, code="node_lost", headers={"Retry-After": "5"})
    if isinstance(error, SystemLimitError):
        return ApiError(message, status=503, code="system_limit", headers={"Retry-After": "1"})
    if isinstance(error, NumericalError):
        return ApiError(message, status=500, code="numerical_error")
    is_request_at_fault = isinstance(error, UsageError | TokenizerError)
    return ApiError(message, status=400 if is_request_at_fault else 500)


def server_ends() -> ApiError:
    """What answers that are under way end with when the server is told to end."""
    return ApiError("the server is ending", status=503, code="server_ending", headers={"Retry-After": "5"})


def invalid_request(error: pydantic.ValidationError) -> ApiError:
    """The first thing that is wrong with a body, and where."""
    problems = error.errors(include_url=False, include_context=False, include_input=False)
    problem: Any = max(problems, key=_nearness)
    if problem["type"] == "json_invalid":
        return ApiError(f"the body is no JSON: {problem['msg'].removeprefix('Invalid JSON: ')}")
    param = _path(problem["loc"])
    reason = plain_line(problem["msg"])  # which may quote what was sent
    return ApiError(f"{param or 'the body'}: {reason}", param=param or None, code=problem["type"])


def _nearness(problem: Any) -> tuple[bool, int, list[int]]:
    """How far an alternative of a union got before it failed; it failed least where the type is the right one."""
    location = problem["loc"]
    indices = [part for part in location if isinstance(part, int)]
    return not problem["type"].endswith("_type"), len(location), indices


def _path(location: tuple[int | str, ...]) -> str:
    """`messages[0].content`; names of the alternatives within a union are left out."""
    path = ""
    before: int | str | None = None
    for part in location:
        if isinstance(part, int):
            path += f"[{part}]"
        elif part.isidentifier() and part not in _KINDS and not _is_tag(before, part):
            path += f".{part}" if path else part
        before = part
    return path


_KINDS = frozenset(["str", "int", "none", "NamedToolChoice"])
"""What pydantic writes into a location for the alternative that it tried; and, for one that a field of it chose, that
field's value: the next two."""

_ROLES = frozenset(["system", "developer", "user", "assistant", "tool"])
_FORMATS = frozenset(["text", "json_object", "json_schema"])


def _is_tag(before: int | str | None, part: str) -> bool:
    return part in _FORMATS if before == "response_format" else isinstance(before, int) and part in _ROLES


def _type_of(status: int) -> str:
    if status == 401:
        return "authentication_error"
    if status == 429:
        return "rate_limit_error"
    return "invalid_request_error" if status < 500 else "server_error"
