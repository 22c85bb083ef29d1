"""uvicorn, with the settings of this program."""

from __future__ import annotations

import socket

import uvicorn
from starlette.types import ASGIApp

_SHUTDOWN_S = 5
"""How long answers under way may take once the server is told to end."""

_BACKLOG = 512


def serve(app: ASGIApp, listener: socket.socket) -> None:
    """Answers until SIGINT or SIGTERM, which are raised again for their former handlers."""
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
    uvicorn.Server(config).run(sockets=[listener])
