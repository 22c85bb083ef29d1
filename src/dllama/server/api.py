"""What every endpoint works with: the model that is served now, the settings, a clock."""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import secrets
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from starlette.requests import Request

from dllama import __version__
from dllama.node import NodeInfo
from dllama.plain_text import LONGEST_NAME, plain_line
from dllama.server.errors import ApiError
from dllama.server.http import until_disconnect
from dllama.server.metrics import Metrics
from dllama.server.served import ServedModel, ServerSettings
from dllama.server.token_rate import TokenRate

P = ParamSpec("P")
T = TypeVar("T")

_N_THREADS = 2
"""For templates, tokenising and grammars. Few, as the model needs the processors too."""


FINGERPRINT = f"dllama-{__version__}"


@dataclasses.dataclass(frozen=True)
class Stamp:
    """What all parts of one answer share."""

    id: str
    created: int
    model: str
    system_fingerprint: str = FINGERPRINT


@dataclasses.dataclass(frozen=True, kw_only=True)
class Api:
    """`served` raises ApiError while there is no model to ask; `nodes` are there also then. `started` is when the
    server did, as `clock` tells. `ending` is set once answers under way have to end."""

    settings: ServerSettings
    served: Callable[[], ServedModel]
    nodes: Callable[[], Sequence[NodeInfo]]
    metrics: Metrics
    clock: Callable[[], float]
    started: float
    ending: asyncio.Event = dataclasses.field(default_factory=asyncio.Event)
    token_rate: TokenRate = dataclasses.field(default_factory=TokenRate)
    pool: Executor = dataclasses.field(default_factory=lambda: ThreadPoolExecutor(_N_THREADS, "prompts"))

    async def in_thread(
        self, request: Request, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """What `function` returns, while the event loop goes on: for what takes longer than a millisecond.

        What has not begun when the client goes away never begins; ClientDisconnect is raised then.
        """

        async def result() -> T:
            call = functools.partial(function, *args, **kwargs)
            return await asyncio.get_running_loop().run_in_executor(self.pool, call)

        return await until_disconnect(request, result(), self.ending)

    def model(self, name: str | None) -> ServedModel:
        """Raises ApiError when there is none, or, with `is_strict`, when another one is wanted."""
        if self.settings.is_strict:
            self.check_name(name)
        return self.served()

    def warning(self, name: str | None) -> str | None:
        """A Warning header (RFC 7234) for an answer of another model than the one that was asked for."""
        if name is None or name == self.settings.model_name:
            return None
        wanted, here = (
            ascii(plain_line(each, LONGEST_NAME)).replace('"', "'")
            for each in (name, self.settings.model_name)
        )
        return f'299 dllama "there is no model {wanted} here: {here} has answered"'

    def check_name(self, name: str | None) -> None:
        if name is not None and name != self.settings.model_name:
            raise ApiError(
                f"there is no model '{plain_line(name, LONGEST_NAME)}' here: "
                f"this server has {self.settings.model_name!r}",
                status=404,
                param="model",
                code="model_not_found",
            )

    def stamp(self, prefix: str) -> Stamp:
        return Stamp(f"{prefix}-{secrets.token_hex(12)}", int(self.clock()), self.settings.model_name)
