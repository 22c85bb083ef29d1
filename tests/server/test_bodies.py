"""Bodies on their way take a bounded amount of memory, however many clients send however slowly."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable

import pytest
from starlette.requests import Request
from starlette.types import Message

from dllama.server.bodies import BodyReader
from dllama.server.errors import ApiError
from dllama.server.requests import DetokenizeRequest

MAX_BYTES = 256 << 10
N_LARGE = MAX_BYTES // 4
SMALL = json.dumps({"tokens": [1] * 100}).encode()
LARGE = json.dumps({"tokens": [1] * N_LARGE}, separators=(",", ":")).encode()


def request(receive: Callable[[], Awaitable[Message]]) -> Request:
    headers = [(b"content-type", b"application/json")]
    return Request({"type": "http", "method": "POST", "headers": headers}, receive)


def sent(body: bytes) -> Request:
    async def receive() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    return request(receive)


def stalled(body: bytes) -> Request:
    """`body` comes, and then nothing more, though that was not its end."""
    parts = iter([body])

    async def receive() -> Message:
        part = next(parts, None)
        if part is None:
            await asyncio.Event().wait()
        return {"type": "http.request", "body": part, "more_body": True}

    return request(receive)


async def refusal(reader: BodyReader, request: Request) -> ApiError:
    with pytest.raises(ApiError) as caught:
        await reader.read(request, DetokenizeRequest)
    return caught.value


def test_large_bodies_wait_for_each_other_and_small_ones_for_none() -> None:
    async def run() -> None:
        reader = BodyReader(MAX_BYTES, timeout_s=60)
        asked = [asyncio.ensure_future(reader.read(stalled(LARGE), DetokenizeRequest)) for _ in range(100)]
        for _ in range(1000):
            await asyncio.sleep(0)  # until nobody gets on any more
        refused = [task.exception() for task in asked if task.done()]
        assert 16 <= len(asked) - len(refused) <= 64
        for error in refused:
            assert isinstance(error, ApiError)
            assert (error.status, error.code, error.headers["Retry-After"]) == (429, "queue_full", "1")
        assert (await reader.read(sent(SMALL), DetokenizeRequest)).tokens == [1] * 100
        for task in asked:
            task.cancel()
        await asyncio.gather(*asked, return_exceptions=True)
        assert len((await reader.read(sent(LARGE), DetokenizeRequest)).tokens) == N_LARGE

    asyncio.run(run())


def test_room_is_given_back_however_a_body_ends() -> None:
    async def run() -> None:
        reader = BodyReader(MAX_BYTES, timeout_s=60)
        for _ in range(40):
            assert (await refusal(reader, sent(LARGE[:-2]))).status == 400
            assert (await refusal(reader, sent(LARGE + LARGE))).status == 413
            await reader.read(sent(LARGE), DetokenizeRequest)

    asyncio.run(run())


def test_a_body_that_does_not_come() -> None:
    async def run() -> None:
        reader = BodyReader(MAX_BYTES, timeout_s=0.01)
        error = await refusal(reader, stalled(b"{"))
        assert error.status == 408

    asyncio.run(run())
