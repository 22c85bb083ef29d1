"""Reading requests and writing answers: bodies within limits, JSON, server-sent events, clients that go away."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any, TypeVar

import pydantic
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from dllama.errors import DllamaError
from dllama.server.errors import ApiError, api_error, invalid_request

Body = TypeVar("Body", bound=pydantic.BaseModel)
T = TypeVar("T")


async def read_body(request: Request, max_bytes: int, timeout_s: float) -> bytes:
    """Raises ApiError when it is no JSON by its type, too large, or does not arrive in time."""
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/json":  # a web page cannot send this to us without asking (CORS)
        raise ApiError("the body has to come as Content-Type: application/json", status=415)
    declared = request.headers.get("content-length", "0")
    if declared.isdigit() and int(declared) > max_bytes:
        raise _too_large(max_bytes)
    body = bytearray()
    try:
        async with asyncio.timeout(timeout_s):
            async for part in request.stream():
                body += part
                if len(body) > max_bytes:
                    raise _too_large(max_bytes)
    except TimeoutError as error:
        raise ApiError(f"the body did not arrive within {timeout_s:.0f} s", status=408) from error
    return bytes(body)


def parse_body(body: bytes, kind: type[Body]) -> Body:
    """Raises ApiError that says what is wrong, and where."""
    try:
        return kind.model_validate_json(body)
    except pydantic.ValidationError as error:
        raise invalid_request(error) from error


def json_response(content: pydantic.BaseModel, status: int = 200) -> Response:
    return Response(content.model_dump_json(), status, media_type="application/json")


async def until_disconnect(request: Request, answer: Coroutine[Any, Any, T]) -> T:
    """What `answer` returns. Cancels it, and raises ClientDisconnect, when the client goes first."""
    task = asyncio.ensure_future(answer)
    watcher = asyncio.ensure_future(_disconnect(request))
    try:
        await asyncio.wait({task, watcher}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientDisconnect
        return task.result()
    finally:
        for future in (task, watcher):
            future.cancel()
        await asyncio.gather(task, watcher, return_exceptions=True)


@dataclasses.dataclass(frozen=True)
class Comment:
    """A line of a stream that clients pass over: a sign of life for people and for proxies on the way."""

    text: str


class EventStream(StreamingResponse):
    """Server-sent events as OpenAI sends them; an error on the way is the last one, without [DONE]."""

    def __init__(self, events: AsyncIterator[str | Comment], on_end: Callable[[], None]) -> None:
        """`events` are the data of each event, and comments between them.

        `on_end` is called once, whether or not the client stayed.
        """
        headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        super().__init__(_framed(events), headers=headers, media_type="text/event-stream")
        self._on_end = on_end

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._on_end()


async def _framed(events: AsyncIterator[str | Comment]) -> AsyncIterator[str]:
    try:
        async for event in events:
            yield f": {event.text}\n\n" if isinstance(event, Comment) else f"data: {event}\n\n"
    except DllamaError as error:
        yield f"data: {api_error(error).body.model_dump_json()}\n\n"
        return
    yield "data: [DONE]\n\n"


async def _disconnect(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _too_large(max_bytes: int) -> ApiError:
    return ApiError(f"the body is larger than {max_bytes} bytes", status=413)
