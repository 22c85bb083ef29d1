"""Which names a server answers to, so that no web page reaches it through a name that points to it only for a moment.

A page of evil.example may ask its own host for anything. When its owner lets that name point to 127.0.0.1 (DNS
rebinding), the browser asks this server and believes the answers to be the page's own; but it still says the name.
An address that is written in numbers is nobody's to point elsewhere.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable

from starlette.types import ASGIApp, Receive, Scope, Send

from dllama.plain_text import LONGEST_NAME, plain_line
from dllama.server.errors import ApiError

ANY_NAME = "*"

_HOST = re.compile(r"(?:\[([^\[\]]*)\]|([^:\[\]]*))(?::\d*)?")


class HostCheck:
    """ASGI middleware: answers 403 to what is asked under a name that is not in `names`.

    Loopback names and addresses in numbers pass always, and so does a request without a name, which no browser sends.
    """

    def __init__(self, app: ASGIApp, names: Iterable[str]) -> None:
        self._app = app
        self._names = frozenset(map(_plain, names)) - {""}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and ANY_NAME not in self._names:
            for field, value in scope["headers"]:
                host = value.decode("latin-1")
                if field == b"host" and not self._is_known(host):
                    await _refusal(host).response()(scope, receive, send)
                    return
        await self._app(scope, receive, send)

    def _is_known(self, host: str) -> bool:
        found = _HOST.fullmatch(host.strip())
        if not found:
            return False
        name = _plain(found[1] or found[2] or "")
        return not host or _is_safe(name) or name in self._names


def names_of_machine(hostname: str) -> tuple[str, ...]:
    """What other computers of the network call a machine of this name: also without its domain, and by mDNS."""
    short = hostname.partition(".")[0]
    return (hostname, short, f"{short}.local") if short else ()


def _is_safe(name: str) -> bool:
    if name == "localhost" or name.endswith(".localhost"):  # RFC 6761: always this computer
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _plain(name: str) -> str:
    return name.strip().lower().removesuffix(".")


def _refusal(host: str) -> ApiError:
    return ApiError(
        f"this server does not answer to the name '{plain_line(host, LONGEST_NAME)}': "
        f"whoever runs it can allow that name",
        status=403,
        code="host_not_allowed",
    )
