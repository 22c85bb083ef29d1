"""A fabric of TCP connections, one for each pair of ranks.

Messages of one token are small and wanted at once, so sockets never block: an exchange tries them in turn for
a short while (`spin_s`) before it lets the system wake it up. That loop is native (`SocketMesh`,
native/socket_exchange.h): it releases the GIL, and comes back to Python when all has moved, when a connection
has ended, and now and then while nothing moves, to look at deadlines, signals and whether peers are alive.

    SocketMesh(fds)                     one socket for each rank, -1 for none
    exchange(sends, receives, spin_s, patience_s)
                                        [(rank, buffer)] as in Fabric.exchange. True: all has moved. False: nothing
                                        has for patience_s, or a signal came. (rank, errno): that connection ended,
                                        errno 0 for an end in order
    go_on(spin_s, patience_s)           the same, for the rest of an exchange
    outstanding(rank)                   bytes that it has still to send to, and to receive from, a rank
    idle_s                              seconds since the last byte moved
    wait_s, wire_s                      of all exchanges: until something had come from everyone who owed bytes,
                                        and from then on
    close()                             waits until no thread uses the sockets
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import socket
from collections.abc import Mapping, Sequence
from functools import partial

from dllama._native import SocketMesh
from dllama.errors import PeerError, PeerLostError
from dllama.fabric.base import SPIN_S, Buffer, Loss, PreparedExchange, WritableBuffer
from dllama.fabric.failures import FirstFailure, Outstanding
from dllama.fabric.heartbeat import Heartbeat
from dllama.fabric.socket_options import set_options

_PATIENCE_S = 0.25
"""The native loop hands over to Python that often while nothing moves: a signal that came just before it slept
is seen then."""


@dataclasses.dataclass(frozen=True)
class TcpPeer:
    """A connection on which both sides have already agreed to talk, and what to call its other end."""

    connection: socket.socket
    name: str


class TcpFabric:
    """See Fabric. Takes the connections over: they become non-blocking, and `close` closes them."""

    def __init__(
        self,
        rank: int,
        peers: Mapping[int, TcpPeer],
        *,
        heartbeat: Heartbeat | None = None,
        spin_s: float = SPIN_S,
    ) -> None:
        """`peers` holds every rank but the own one. `spin_s` is how long an exchange tries again after its
        last progress before it sleeps. Without a `heartbeat`, which is taken over too, a peer that is silent may as
        well compute."""
        assert {rank, *peers} == set(range(len(peers) + 1)), f"ranks {rank} and {sorted(peers)} have gaps"
        self._rank = rank
        self._n_ranks = len(peers) + 1
        self._spin_s = spin_s
        self._peers = dict(peers)
        for peer in peers.values():
            set_options(peer.connection)
            peer.connection.setblocking(False)
        self._mesh = SocketMesh(
            [peers[other].connection.fileno() if other != rank else -1 for other in range(self._n_ranks)]
        )
        self._failure = FirstFailure()
        self._heartbeat = heartbeat

    @property
    def rank(self) -> int:
        return self._rank

    @property
    def n_ranks(self) -> int:
        return self._n_ranks

    def peer_name(self, rank: int) -> str:
        return "this node" if rank == self._rank else self._peers[rank].name

    @property
    def sent_bytes(self) -> list[int]:
        return self._mesh.sent_bytes

    @property
    def received_bytes(self) -> list[int]:
        return self._mesh.received_bytes

    @property
    def waited_s(self) -> float:
        return self._mesh.wait_s

    @property
    def moved_s(self) -> float:
        return self._mesh.wire_s

    @property
    def losses(self) -> dict[int, Loss]:
        return self._failure.losses or (self._heartbeat.losses if self._heartbeat else {})

    def exchange(
        self,
        sends: Sequence[tuple[int, Buffer]],
        receives: Sequence[tuple[int, WritableBuffer]],
        timeout_s: float | None,
    ) -> None:
        self._failure.enter()
        patience_s = _PATIENCE_S if timeout_s is None else min(_PATIENCE_S, timeout_s)
        outcome = self._mesh.exchange(sends, receives, self._spin_s, patience_s)
        while outcome is not True:
            if outcome is False:
                patience_s = self._watch(sends, receives, timeout_s)
                outcome = self._mesh.go_on(self._spin_s, patience_s)
            else:
                raise self._lost(*outcome)
        self._failure.leave()

    def prepare(
        self, sends: Sequence[tuple[int, Buffer]], receives: Sequence[tuple[int, WritableBuffer]]
    ) -> PreparedExchange:
        return partial(self.exchange, sends, receives)

    def close(self) -> None:
        self._failure.record(PeerLostError("this node closed its connections"))
        for peer in self._peers.values():
            with contextlib.suppress(OSError):  # it may be disconnected already
                peer.connection.shutdown(socket.SHUT_RDWR)  # wakes a thread that waits for it; close does not
        self._mesh.close()
        for peer in self._peers.values():
            peer.connection.close()
        if self._heartbeat:
            self._heartbeat.close()

    def _watch(
        self,
        sends: Sequence[tuple[int, Buffer]],
        receives: Sequence[tuple[int, WritableBuffer]],
        timeout_s: float | None,
    ) -> float:
        """Nothing moves: returns how long the native loop may go on. Raises the recorded PeerTimeoutError, or
        PeerLostError when any rank of the session is lost: who waits for another one waits for it too."""
        for rank, loss in self.losses.items():
            if not self._has_unread(rank):
                raise self._lost(rank, reason=loss.reason)
        idle_s = self._mesh.idle_s
        if timeout_s is not None and idle_s >= timeout_s:
            ranks = sorted({rank for rank, _ in (*sends, *receives)})
            pending = [self._outstanding(rank) for rank in ranks if any(self._mesh.outstanding(rank))]
            raise self._failure.record_timeout(pending, timeout_s)
        return _PATIENCE_S if timeout_s is None else min(_PATIENCE_S, timeout_s - idle_s)

    def _has_unread(self, rank: int) -> bool:
        """Whether something came from a rank before it went, which may say why."""
        with contextlib.suppress(OSError):
            return bool(self._peers[rank].connection.recv(1, socket.MSG_PEEK))
        return False

    def _lost(self, rank: int, error: int = 0, reason: str = "") -> PeerError:
        """What to raise for a connection that has ended, by `error` or in order (0)."""
        self._failure.check()  # another thread closed the fabric under our feet
        reason = reason or (os.strerror(error).lower() if error else "it closed the connection")
        losses = self._heartbeat.settled_losses() if self._heartbeat else {}
        if losses and rank not in losses:  # this one ended its session because of another one
            rank = min(losses, key=lambda one: losses[one].since)
            reason = losses[rank].reason
        return self._failure.record_lost(self._outstanding(rank), reason, losses)

    def _outstanding(self, rank: int) -> Outstanding:
        return Outstanding(self._peers[rank].name, rank, *self._mesh.outstanding(rank))
