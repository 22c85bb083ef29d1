"""Reading the bodies of requests: JSON of a known form, within limits of time and of size, also of all together."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import pydantic
from starlette.requests import Request

from dllama.server.errors import ApiError, invalid_request

Body = TypeVar("Body", bound=pydantic.BaseModel)

_SMALL_BYTES = 64 << 10
"""What every body may have, however many there are: usual requests pass while large ones wait for each other."""

_MANY = 16
"""Bodies of the largest size that may be on their way at once."""


class BodyReader:
    """All bodies of one server. Not to be used by two event loops."""

    def __init__(self, max_bytes: int, timeout_s: float) -> None:
        """Limits of one body; it has to be there within `timeout_s`."""
        self._max_bytes, self._timeout_s = max_bytes, timeout_s
        self._n_free_bytes = _MANY * max_bytes

    async def read(self, request: Request, kind: type[Body]) -> Body:
        """Raises ApiError for a body that is too large, too slow or wrong, and for a large one among too many."""
        media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if media_type != "application/json":  # a web page cannot send this to us without asking (CORS)
            raise ApiError("the body has to come as Content-Type: application/json", status=415)
        declared = request.headers.get("content-length", "0")
        if declared.isdecimal() and int(declared) > self._max_bytes:
            raise self._too_large()
        try:
            async with asyncio.timeout(self._timeout_s):
                return parse_body(await self._content(request), kind)
        except TimeoutError as error:
            raise ApiError(f"the body did not arrive within {self._timeout_s:.0f} s", status=408) from error

    async def _content(self, request: Request) -> bytes:
        content = bytearray()
        with self._room() as take:
            async for part in request.stream():
                content += part
                if len(content) > self._max_bytes:
                    raise self._too_large()
                take(len(content))
            return bytes(content)

    @contextmanager
    def _room(self) -> Iterator[Callable[[int], None]]:
        """`take(n)` raises ApiError when there is no room for a body of `n` bytes so far; at the end all is free."""
        taken = 0

        def take(n_bytes: int) -> None:
            nonlocal taken
            wanted = max(0, n_bytes - _SMALL_BYTES)
            if wanted - taken > self._n_free_bytes:
                raise ApiError(
                    "too many large requests are on their way: try again later",
                    status=429,
                    code="queue_full",
                    headers={"Retry-After": "1"},
                )
            self._n_free_bytes -= wanted - taken
            taken = wanted

        try:
            yield take
        finally:
            self._n_free_bytes += taken

    def _too_large(self) -> ApiError:
        return ApiError(f"the body is larger than {self._max_bytes} bytes", status=413)


def parse_body(body: bytes, kind: type[Body]) -> Body:
    """Raises ApiError that says what is wrong, and where."""
    try:
        return kind.model_validate_json(body)
    except pydantic.ValidationError as error:
        raise invalid_request(error) from error
