"""Writing answers: JSON, server-sent events, clients that go away."""

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
from dllama.server.errors import api_error, server_ends
from dllama.server.request_log import note_error

T = TypeVar("T")


def json_response(content: pydantic.BaseModel, status: int = 200) -> Response:
    return Response(content.model_dump_json(), status, media_type="application/json")


async def until_disconnect(request: Request, answer: Coroutine[Any, Any, T], ending: asyncio.Event) -> T:
    """What `answer` returns.

    Cancels it and raises ClientDisconnect when the client goes first, ApiError when the server does (`ending`).
    """
    task = asyncio.ensure_future(answer)
    gone, ended = asyncio.ensure_future(_disconnect(request)), asyncio.ensure_future(ending.wait())
    try:
        await asyncio.wait({task, gone, ended}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise server_ends() if ended.done() else ClientDisconnect
    finally:
        for future in (task, gone, ended):
            future.cancel()
        await asyncio.gather(task, gone, ended, return_exceptions=True)


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
        super().__init__(self._framed(events), headers=headers, media_type="text/event-stream")
        self._on_end = on_end
        self._error: DllamaError | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._on_end()
            if self._error is not None:
                note_error(scope, self._error)

    async def _framed(self, events: AsyncIterator[str | Comment]) -> AsyncIterator[str]:
        try:
            async for event in events:
                yield f": {event.text}\n\n" if isinstance(event, Comment) else f"data: {event}\n\n"
        except DllamaError as error:
            self._error = error
            yield f"data: {api_error(error).body.model_dump_json()}\n\n"
            return
        yield "data: [DONE]\n\n"


async def _disconnect(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
