"""Connections of the HTTP server, none of which can hold it up: clients that send nothing, or slowly, or do not read.

uvicorn's protocol over h11 is what it is, with deadlines added; its `asyncio.Server` is replaced by a loop that accepts
one connection at a time, makes room where there are too many, and bears a lack of descriptors.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import socket
from collections.abc import Callable
from typing import Any

from starlette.responses import Response
from uvicorn.protocols.http.h11_impl import H11Protocol

from dllama.node.shortage import OUT_OF_ROOM
from dllama.server.errors import ApiError

_log = logging.getLogger(__name__)

_RETRY_S = 0.2
"""Until the next attempt to accept when the system had nothing left for a connection."""

_BACKLOG = 512
"""Connections that the system holds until they are accepted; whoever comes then has to try again after a second."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConnectionLimits:
    """
    head_s        from a connection's begin, or its last answer, until the next request has its headers sent.
                  Where nothing comes after an answer, uvicorn's keep-alive time (5 s) closes the connection before
    write_s       how long a client may read nothing of what is there for it
    answer_s      how long answers under way may take once the server is told to end
    last_words_s  then, to take in that the server ends
    """

    max_connections: int = 512
    head_s: float = 10.0
    write_s: float = 60.0
    answer_s: float = 5.0
    last_words_s: float = 2.0


class Connections:
    """All open connections of a server, in the order in which they began to wait for their clients."""

    def __init__(self, limits: ConnectionLimits) -> None:
        self.limits = limits
        self._open: dict[BoundedProtocol, None] = {}

    def add(self, connection: BoundedProtocol) -> None:
        """Makes room, if need be; raises ApiError when all others are being answered."""
        if len(self._open) >= self.limits.max_connections and not self.drop_one():
            raise ApiError(
                "the server has as many connections as it can have: try again later",
                status=503,
                code="too_many_connections",
                headers={"Retry-After": "1"},
            )
        self._open[connection] = None

    def discard(self, connection: BoundedProtocol) -> None:
        self._open.pop(connection, None)

    def waits_again(self, connection: BoundedProtocol) -> None:
        """It was answered: it is the last to be dropped of those that wait."""
        if connection in self._open:
            del self._open[connection]
            self._open[connection] = None

    def drop_one(self) -> bool:
        """Closes the connection that has waited longest for a request, else one whose request is still on its way."""
        for is_spare in (BoundedProtocol.is_idle, BoundedProtocol.is_receiving):
            for connection in self._open:
                if is_spare(connection):
                    self.discard(connection)
                    connection.abort()
                    return True
        return False

    def abort_all(self) -> None:
        for connection in list(self._open):
            connection.abort()


class BoundedProtocol(H11Protocol):
    """One connection. It is closed when a client takes too long to ask, or to read."""

    def __init__(self, connections: Connections, **arguments: Any) -> None:
        """`arguments` are those of uvicorn's protocols."""
        super().__init__(**arguments)
        self._all = connections
        self._head_timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None
        self._has_begun = False

    def is_idle(self) -> bool:
        """No request is under way: none came, or its headers are not complete."""
        return self.cycle is None or self.cycle.response_complete

    def is_receiving(self) -> bool:
        """The body of a request is on its way."""
        return not self.is_idle() and self.cycle.more_body

    def abort(self) -> None:
        self.transport.abort()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        try:
            self._all.add(self)
        except ApiError as error:
            self._answer_and_close(error)
        else:
            self._await_request()

    def connection_lost(self, error: Exception | None) -> None:
        self._all.discard(self)
        self._cancel_timers()
        super().connection_lost(error)

    def data_received(self, data: bytes) -> None:
        self._has_begun = True
        super().data_received(data)
        if not self.is_idle() and self._head_timer:
            self._head_timer.cancel()
            self._head_timer = None

    def on_response_complete(self) -> None:
        super().on_response_complete()  # begins with the next request, if that has come already
        if self.is_idle():
            self._has_begun = bool(self.conn.trailing_data[0])
            self._all.waits_again(self)
            self._await_request()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._write_timer = self.loop.call_later(self._all.limits.write_s, self.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._write_timer:
            self._write_timer.cancel()
            self._write_timer = None

    def _await_request(self) -> None:
        if self._head_timer:
            self._head_timer.cancel()
        self._head_timer = self.loop.call_later(self._all.limits.head_s, self._give_up)

    def _give_up(self) -> None:
        if self._has_begun:
            seconds = self._all.limits.head_s
            self._answer_and_close(ApiError(f"no whole request came within {seconds:g} s", status=408))
        else:
            self.transport.close()

    def _answer_and_close(self, error: ApiError) -> None:
        """Writes the error past uvicorn, which can answer only requests that it has read; here is none."""
        if not self.transport.is_closing():
            self.transport.write(_raw(error.response()))
            self.transport.close()

    def _cancel_timers(self) -> None:
        for timer in (self._head_timer, self._write_timer):
            if timer:
                timer.cancel()


class Acceptor:
    """Accepts connections; as much of an `asyncio.Server` as uvicorn asks for."""

    def __init__(
        self,
        listener: socket.socket,
        connections: Connections,
        make_protocol: Callable[[], asyncio.Protocol],
    ) -> None:
        """`listener` listens; it is closed by `close`."""
        listener.listen(_BACKLOG)
        listener.setblocking(False)
        self._listener, self._connections, self._make_protocol = listener, connections, make_protocol
        self._loop = asyncio.get_running_loop()
        self._beginning: set[asyncio.Task[None]] = set()
        self._retry: asyncio.TimerHandle | None = None
        self._is_short = False  # of descriptors; said once
        self._listen()

    def close(self) -> None:
        self._loop.remove_reader(self._listener)
        if self._retry:
            self._retry.cancel()
        self._listener.close()

    async def wait_closed(self) -> None:
        """Until those that were accepted at last are connections."""
        await asyncio.gather(*self._beginning)

    def _listen(self) -> None:
        self._loop.add_reader(self._listener, self._accept)

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except OSError as error:  # of the connection, which may be gone already, or of this computer
            if error.errno in OUT_OF_ROOM:
                if not self._is_short:
                    _log.warning("connections have to wait: %s", error.strerror)
                self._is_short = True
                self._connections.drop_one()
                self._loop.remove_reader(self._listener)
                self._retry = self._loop.call_later(_RETRY_S, self._listen)
            return
        self._is_short = False
        connection.setblocking(False)
        task = self._loop.create_task(self._begin(connection))
        self._beginning.add(task)
        task.add_done_callback(self._beginning.discard)

    async def _begin(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError):  # it has gone meanwhile
            await self._loop.connect_accepted_socket(self._make_protocol, connection)


def _raw(response: Response) -> bytes:
    """A whole HTTP/1.1 answer after which the connection ends."""
    status = {408: "Request Timeout", 503: "Service Unavailable"}[response.status_code]
    fields = [*response.raw_headers, (b"connection", b"close")]
    lines = [f"HTTP/1.1 {response.status_code} {status}".encode(), *(b"%s: %s" % field for field in fields)]
    return b"\r\n".join(lines) + b"\r\n\r\n" + bytes(response.body)
