"""uvicorn, with the settings of this program."""

from __future__ import annotations

import socket

import uvicorn
from starlette.types import ASGIApp

_SHUTDOWN_S = 5
"""How long answers under way may take once the server is told to end."""

_BACKLOG = 512


class HttpServer:
    def __init__(self, app: ASGIApp, listener: socket.socket) -> None:
        """`listener` already listens; it belongs to the caller."""
        self._listener = listener
        config = uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            server_header=False,
            backlog=_BACKLOG,
            timeout_graceful_shutdown=_SHUTDOWN_S,
            lifespan="off",
            ws="none",
        )
        self._server = uvicorn.Server(config)

    def run(self) -> None:
        """Answers until `stop`, or SIGINT or SIGTERM, which are raised again for their former handlers."""
        self._server.run(sockets=[self._listener])

    def stop(self) -> None:
        """Ends `run` soon. Any thread may call it."""
        self._server.should_exit = True
