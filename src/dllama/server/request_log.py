"""A line of the log for each request, and an id by which client and server can speak of it."""

from __future__ import annotations

import dataclasses
import logging
import re
import secrets
import time
from collections.abc import Callable, Mapping

from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dllama.errors import DllamaError
from dllama.fabric import format_address
from dllama.plain_text import plain_line

_log = logging.getLogger(__name__)

ID_HEADER = "X-Request-Id"

_ID = re.compile(rb"[A-Za-z0-9._:/+=-]{1,128}")

_GONE = 499
"""The status of a request whose client did not wait for the answer, as nginx calls it."""

_LONGEST_REASON = 200


@dataclasses.dataclass
class TokenCount:
    """Tokens of a request so far."""

    n_prompt: int = 0
    n_completion: int = 0


def count_tokens(request: Request, count: TokenCount) -> None:
    """The request's line in the log will have the numbers that `count` has when the request ends."""
    request.state.tokens = count


def note_error(scope: Scope, error: DllamaError) -> None:
    """The request's line in the log will have this error, also that of a stream, whose status (200) is sent already."""
    scope.setdefault("state", {})["error"] = f": {plain_line(str(error), _LONGEST_REASON)}"


class RequestLog:
    """ASGI middleware around all others. Answers get the id that the request brought, or one of our own.

    Requests that ask for work and those that fail are logged as INFO. Other GET, HEAD and OPTIONS requests, of which
    the page sends one each second, are logged as DEBUG.
    """

    def __init__(self, app: ASGIApp, clock: Callable[[], float] = time.perf_counter) -> None:
        self._app, self._clock = app, clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start_s, request_id = self._clock(), _request_id(scope)
        scope["state"] = state = dict(scope.get("state", {}))
        status, is_whole = _GONE, False

        async def watched(message: Message) -> None:
            nonlocal status, is_whole
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), (ID_HEADER.lower().encode(), request_id)]
            else:
                is_whole = not message.get("more_body", False)
            await send(message)

        name, client = request_id.decode(), _client(scope)
        _log.debug("%s %s begins, from %s, id %s", scope["method"], scope["path"], client, name)
        try:
            await self._app(scope, receive, watched)
        finally:
            if not is_whole:
                status = _GONE
            looks_only = scope["method"] in ("GET", "HEAD", "OPTIONS") and status < 400
            _log.log(
                logging.DEBUG if looks_only else logging.INFO,
                "%s %s %d, %.0f ms%s, from %s, id %s%s",
                scope["method"],
                scope["path"],
                status,
                (self._clock() - start_s) * 1e3,
                _tokens(state),
                client,
                name,
                state.get("error", ""),
            )


def _request_id(scope: Scope) -> bytes:
    for field, value in scope["headers"]:
        if field == ID_HEADER.lower().encode() and _ID.fullmatch(value):
            return bytes(value)
    return secrets.token_hex(12).encode()


def _client(scope: Scope) -> str:
    host, port = scope.get("client") or ("", 0)
    return format_address(host, port) if host else "somewhere"


def _tokens(state: Mapping[str, object]) -> str:
    count = state.get("tokens")
    return f", {count.n_prompt} + {count.n_completion} tokens" if isinstance(count, TokenCount) else ""
