"""Who may ask: the API keys of a server, and the one that a request brings."""

from __future__ import annotations

import contextlib
import hmac
from collections.abc import Sequence

from starlette.requests import Request

from dllama.server.errors import ApiError


def check_key(request: Request, keys: Sequence[str]) -> None:
    """Raises ApiError unless there are no keys, or the request brings one of them.

    Keys may have any characters: some clients send them as UTF-8, others as Latin-1.
    """
    if not keys:
        return
    header = request.headers.get("authorization", "").encode("latin-1")
    scheme, _, given = header.partition(b" ")
    if scheme.lower() != b"bearer":
        raise _unauthorized("this server needs an API key: send Authorization: Bearer KEY", None)
    given = given.strip(b" \t")
    matches = [hmac.compare_digest(given, spelling) for key in keys for spelling in _spellings(key)]
    if not any(matches):
        raise _unauthorized("the API key is not one of this server's", "invalid_api_key")


def _spellings(key: str) -> list[bytes]:
    """`key` may come from the command line, where bytes that are no UTF-8 become surrogates."""
    spellings = [key.encode("utf-8", "surrogateescape")]
    with contextlib.suppress(UnicodeEncodeError):
        spellings.append(key.encode("latin-1"))
    return spellings


def _unauthorized(message: str, code: str | None) -> ApiError:
    return ApiError(message, status=401, code=code, headers={"WWW-Authenticate": "Bearer"})
