"""A fabric of TCP connections, one for each pair of ranks.

Messages of one token are small and wanted at once, so sockets never block: an exchange tries them in turn for
a short while (`spin_s`, giving its core away between rounds) before it lets the system wake it up.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import select
import socket
import time
from collections.abc import Mapping, Sequence

from dllama.errors import PeerLostError
from dllama.fabric.base import Buffer, WritableBuffer, bytes_view
from dllama.fabric.failures import FirstFailure, Outstanding, lost_error, timeout_error
from dllama.fabric.liveness import SILENCE_S, set_options, system_answers

SPIN_S = 100e-6
"""Longer than the round trip of a wired LAN (some 50 us), so that answers meet a process that is awake."""

_MAX_VECTOR = 512
"""Buffers in one sendmsg; the smallest IOV_MAX of the systems we run on is 1024."""

_LIVENESS_CHECK_S = 5.0


@dataclasses.dataclass(frozen=True)
class TcpPeer:
    """A connection on which both sides have already agreed to talk, and what to call its other end."""

    connection: socket.socket
    name: str


class TcpFabric:
    """See Fabric. Takes the connections over: they become non-blocking, and `close` closes them."""

    def __init__(self, rank: int, peers: Mapping[int, TcpPeer], *, spin_s: float = SPIN_S) -> None:
        """`peers` holds every rank but the own one. `spin_s` is how long an exchange tries again after its
        last progress before it sleeps."""
        assert {rank, *peers} == set(range(len(peers) + 1)), f"ranks {rank} and {sorted(peers)} have gaps"
        self._rank = rank
        self._spin_s = spin_s
        self._links = {peer_rank: _Link(peer_rank, peer) for peer_rank, peer in peers.items()}
        self._failure = FirstFailure()

    @property
    def rank(self) -> int:
        return self._rank

    @property
    def n_ranks(self) -> int:
        return len(self._links) + 1

    def peer_name(self, rank: int) -> str:
        return "this node" if rank == self._rank else self._links[rank].name

    @property
    def sent_bytes(self) -> list[int]:
        return [0 if rank == self._rank else self._links[rank].sent_bytes for rank in range(self.n_ranks)]

    @property
    def received_bytes(self) -> list[int]:
        return [0 if rank == self._rank else self._links[rank].received_bytes for rank in range(self.n_ranks)]

    def exchange(
        self,
        sends: Sequence[tuple[int, Buffer]],
        receives: Sequence[tuple[int, WritableBuffer]],
        timeout_s: float | None,
    ) -> None:
        self._failure.enter()
        links = self._load(sends, receives)
        try:
            self._move(links, timeout_s)
        except _LinkError as error:
            self._failure.check()  # another thread closed the fabric under our feet
            raise self._failure.record(lost_error(error.link.outstanding, str(error))) from error.__cause__
        self._failure.leave()

    def close(self) -> None:
        self._failure.record(PeerLostError("this node closed its connections"))
        for link in self._links.values():
            link.close()

    def _load(
        self, sends: Sequence[tuple[int, Buffer]], receives: Sequence[tuple[int, WritableBuffer]]
    ) -> list[_Link]:
        """Queues the buffers at their links; returns the links that have something to do."""
        links: list[_Link] = []
        for rank, buffer in sends:
            view = bytes_view(buffer)
            if view:
                link = self._links[rank]
                if not link.outgoing:
                    links.append(link)
                link.outgoing.append(view)
        for rank, writable in receives:
            view = bytes_view(writable)
            if view:
                link = self._links[rank]
                if not (link.outgoing or link.incoming):
                    links.append(link)
                link.incoming.append(view)
        return links

    def _move(self, links: list[_Link], timeout_s: float | None) -> None:
        """Moves what is queued at `links`. Raises _LinkError for the connection that ended, or the recorded
        PeerTimeoutError."""
        pending = links
        idle_since = 0.0
        while True:
            progress = False
            for link in pending:
                if link.outgoing and link.push():
                    progress = True
                if link.incoming and link.pull():
                    progress = True
            if progress:
                pending = [link for link in pending if link.outgoing or link.incoming]
                idle_since = 0.0
            if not pending:
                return
            if progress:
                continue
            now = time.monotonic()
            if idle_since == 0.0:
                idle_since = now
            idle_s = now - idle_since
            if timeout_s is not None and idle_s >= timeout_s:
                raise self._failure.record(timeout_error([link.outstanding for link in pending], timeout_s))
            if idle_s < self._spin_s:
                os.sched_yield()
            else:
                _sleep(links, pending, idle_s, timeout_s)


def _sleep(links: Sequence[_Link], pending: Sequence[_Link], idle_s: float, timeout_s: float | None) -> None:
    """Lets the system wake us when a pending link can move; sees now and then whether peers still answer."""
    if idle_s >= SILENCE_S:
        for link in links:
            link.check_alive()
    poll = select.poll()
    for link in pending:
        poll.register(
            link.fd, (select.POLLIN if link.incoming else 0) | (select.POLLOUT if link.outgoing else 0)
        )
    wait_s = _LIVENESS_CHECK_S if timeout_s is None else min(_LIVENESS_CHECK_S, timeout_s - idle_s)
    poll.poll(wait_s * 1000)


class _LinkError(Exception):
    """A link's connection ended; str() is the reason."""

    def __init__(self, link: _Link, reason: str) -> None:
        super().__init__(reason)
        self.link = link


class _Link:
    """The connection to one peer, and the buffers that the running exchange still has to move over it."""

    __slots__ = (
        "_connection",
        "_recv_into",
        "_send",
        "fd",
        "incoming",
        "name",
        "outgoing",
        "rank",
        "received_bytes",
        "sent_bytes",
    )

    def __init__(self, rank: int, peer: TcpPeer) -> None:
        set_options(peer.connection)
        peer.connection.setblocking(False)
        self.rank = rank
        self.name = peer.name
        self.fd = peer.connection.fileno()
        self.outgoing: list[memoryview] = []
        self.incoming: list[memoryview] = []
        self.sent_bytes = 0
        self.received_bytes = 0
        self._connection = peer.connection
        self._send = peer.connection.send
        self._recv_into = peer.connection.recv_into

    def push(self) -> int:
        """Hands to the system what it takes of `outgoing`; returns the bytes, 0 when it takes none now."""
        outgoing = self.outgoing
        try:
            if len(outgoing) == 1:
                n_bytes = self._send(outgoing[0])
            else:
                n_bytes = self._connection.sendmsg(outgoing[:_MAX_VECTOR])
        except BlockingIOError:
            return 0
        except OSError as error:
            raise _LinkError(self, _reason(error)) from error
        self.sent_bytes += n_bytes
        if len(outgoing) == 1 and n_bytes == len(outgoing[0]):
            outgoing.clear()
        else:
            _drop_front(outgoing, n_bytes)
        return n_bytes

    def pull(self) -> int:
        """Takes from the system what has come for the first of `incoming`; returns the bytes, 0 for none."""
        view = self.incoming[0]
        try:
            n_bytes = self._recv_into(view)
        except BlockingIOError:
            return 0
        except OSError as error:
            raise _LinkError(self, _reason(error)) from error
        if n_bytes == 0:
            raise _LinkError(self, "it closed the connection")
        self.received_bytes += n_bytes
        if n_bytes == len(view):
            del self.incoming[0]
        else:
            self.incoming[0] = view[n_bytes:]
        return n_bytes

    @property
    def outstanding(self) -> Outstanding:
        return Outstanding(self.name, self.rank, sum(map(len, self.outgoing)), sum(map(len, self.incoming)))

    def check_alive(self) -> None:
        if not system_answers(self._connection):
            raise _LinkError(self, f"its system has not answered for {SILENCE_S} s")

    def close(self) -> None:
        with contextlib.suppress(OSError):  # it may be disconnected already
            self._connection.shutdown(
                socket.SHUT_RDWR
            )  # wakes a thread that waits for it; close alone does not
        self._connection.close()


def _reason(error: OSError) -> str:
    return (error.strerror or str(error)).lower()


def _drop_front(buffers: list[memoryview], n_bytes: int) -> None:
    """Removes the first `n_bytes` of `buffers`."""
    n_whole = 0
    for view in buffers:
        if len(view) > n_bytes:
            break
        n_bytes -= len(view)
        n_whole += 1
    del buffers[:n_whole]
    if n_bytes:
        buffers[0] = buffers[0][n_bytes:]
