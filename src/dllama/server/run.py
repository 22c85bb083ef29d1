"""uvicorn, with the settings of this program."""

from __future__ import annotations

import asyncio
import functools
import socket
from collections.abc import Callable
from types import FrameType
from typing import Any, cast

import uvicorn
from starlette.types import ASGIApp

from dllama.host.spare_memory import give_back_spare_memory
from dllama.server.connections import Acceptor, BoundedProtocol, ConnectionLimits, Connections

_QUIET_S = 2
"""How often one looks whether all is quiet."""


class HttpServer:
    def __init__(
        self,
        app: ASGIApp,
        listener: socket.socket,
        on_ending: Callable[[], None],
        limits: ConnectionLimits = ConnectionLimits(),  # noqa: B008 - a constant
    ) -> None:
        """`listener` already listens; it is closed when the server is told to end.

        `on_ending` is called from within the event loop when answers under way have to end with an error.
        """
        self._server = _Server(app, listener, on_ending, limits)

    def run(self) -> None:
        """Answers until `stop`, or SIGINT or SIGTERM, which are raised again for their former handlers.

        Answers under way then have `limits.answer_s` to come to their end; a second signal takes that from them, a
        third the time to say so.
        """
        self._server.run()

    def stop(self) -> None:
        """Ends `run` soon. Any thread may call it."""
        self._server.should_exit = True


class _Server(uvicorn.Server):
    """Accepts by an Acceptor, and ends what is under way before uvicorn would cancel it."""

    def __init__(
        self, app: ASGIApp, listener: socket.socket, on_ending: Callable[[], None], limits: ConnectionLimits
    ) -> None:
        self._listener, self._on_ending, self._limits = listener, on_ending, limits
        self._connections = Connections(limits)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._is_ending = False
        self._n_requests = 0  # when memory was given back
        config = uvicorn.Config(
            app,
            interface="asgi3",
            http=cast("type[asyncio.Protocol]", functools.partial(BoundedProtocol, self._connections)),
            log_config=None,
            access_log=False,
            server_header=False,
            lifespan="off",
            ws="none",
            callback_notify=self._look_around,
            timeout_notify=_QUIET_S,
        )
        super().__init__(config)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        def make_protocol() -> asyncio.Protocol:
            protocol: Callable[..., asyncio.Protocol] = self.config.http_protocol_class
            return protocol(config=self.config, server_state=self.server_state, app_state={})

        acceptor: Any = Acceptor(self._listener, self._connections, make_protocol)
        self._loop = asyncio.get_running_loop()
        self.servers = [acceptor]
        self.started = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        loop = asyncio.get_running_loop()
        end = loop.call_later(self._limits.answer_s, self._end_answers)
        await super().shutdown(sockets)
        end.cancel()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if not self.should_exit:
            super().handle_exit(sig, frame)
        elif self._loop is not None:
            self._loop.call_soon_threadsafe(
                self._connections.abort_all if self._is_ending else self._end_answers
            )

    async def _look_around(self) -> None:
        """Gives back what requests left, once nobody is served."""
        state = self.server_state
        if state.total_requests != self._n_requests and not state.tasks:
            self._n_requests = state.total_requests
            give_back_spare_memory()

    def _end_answers(self) -> None:
        if not self._is_ending:
            self._is_ending = True
            self._on_ending()
            asyncio.get_running_loop().call_later(self._limits.last_words_s, self._connections.abort_all)
