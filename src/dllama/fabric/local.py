"""A fabric of threads in one process: what TCP promises, without a network. For tests."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Sequence
from functools import partial

from dllama.errors import PeerLostError
from dllama.fabric.base import Buffer, PreparedExchange, WritableBuffer, bytes_view
from dllama.fabric.failures import Outstanding, Unwatched

CAPACITY_BYTES = 256 * 1024
"""What a pipe holds unread. As with a socket, a sender that gets this far ahead waits."""


def local_fabrics(n_ranks: int) -> list[LocalFabric]:
    """One fabric for each of `n_ranks` threads, connected with each other."""
    ranks = range(n_ranks)
    pipes = {(source, target): _Pipe() for source in ranks for target in ranks if source != target}
    changed = threading.Condition()
    return [LocalFabric(rank, n_ranks, pipes, changed) for rank in ranks]


class LocalFabric(Unwatched):
    """See Fabric. Made by local_fabrics."""

    def __init__(
        self, rank: int, n_ranks: int, pipes: dict[tuple[int, int], _Pipe], changed: threading.Condition
    ) -> None:
        """`changed` guards the `pipes` of all ranks, by (source, target), and tells that one has changed."""
        super().__init__()
        peers = [peer for peer in range(n_ranks) if peer != rank]
        self._rank = rank
        self._n_ranks = n_ranks
        self._outbound = {peer: pipes[rank, peer] for peer in peers}
        self._inbound = {peer: pipes[peer, rank] for peer in peers}
        self._changed = changed

    @property
    def rank(self) -> int:
        return self._rank

    @property
    def n_ranks(self) -> int:
        return self._n_ranks

    def peer_name(self, rank: int) -> str:
        return "this node" if rank == self._rank else f"thread {rank}"

    @property
    def sent_bytes(self) -> list[int]:
        return [self._outbound[r].n_pushed if r != self._rank else 0 for r in range(self._n_ranks)]

    @property
    def received_bytes(self) -> list[int]:
        return [self._inbound[r].n_pulled if r != self._rank else 0 for r in range(self._n_ranks)]

    def exchange(
        self,
        sends: Sequence[tuple[int, Buffer]],
        receives: Sequence[tuple[int, WritableBuffer]],
        timeout_s: float | None,
    ) -> None:
        work = [
            _Work(peer, _bytes_views(sends, peer), _bytes_views(receives, peer)) for peer in self._outbound
        ]
        with self._changed:
            self._failure.enter()
            last_progress = time.monotonic()
            while True:
                if self._move(work):
                    last_progress = time.monotonic()
                    self._changed.notify_all()
                work = [peer for peer in work if peer.outgoing or peer.incoming]
                if not work:
                    break
                self._wait(work, last_progress, timeout_s)
            self._failure.leave()

    def prepare(
        self, sends: Sequence[tuple[int, Buffer]], receives: Sequence[tuple[int, WritableBuffer]]
    ) -> PreparedExchange:
        return partial(self.exchange, sends, receives)

    def close(self) -> None:
        with self._changed:
            self._failure.record(PeerLostError("this node closed its connections"))
            for pipe in (*self._outbound.values(), *self._inbound.values()):
                pipe.closed = True
            self._changed.notify_all()

    def _move(self, work: list[_Work]) -> int:
        """Moves what can be moved now; returns the bytes."""
        n_bytes = 0
        for peer in work:
            n_bytes += self._outbound[peer.rank].push(peer.outgoing)
            n_bytes += self._inbound[peer.rank].pull(peer.incoming)
        return n_bytes

    def _wait(self, work: list[_Work], last_progress: float, timeout_s: float | None) -> None:
        """Waits for a pipe to change, and raises where none will or the time is up."""
        self._failure.check()
        for peer in work:
            if (peer.outgoing and self._outbound[peer.rank].closed) or (
                peer.incoming and self._inbound[peer.rank].is_drained
            ):
                raise self._failure.record_lost(self._outstanding(peer), "it closed the connection")
        wait_s = None if timeout_s is None else timeout_s - (time.monotonic() - last_progress)
        if timeout_s is not None and wait_s is not None and wait_s <= 0:
            waiting = [self._outstanding(peer) for peer in work]
            raise self._failure.record_timeout(waiting, timeout_s)
        if not any(self._can_move(peer) for peer in work):
            self._changed.wait(wait_s)

    def _can_move(self, peer: _Work) -> bool:
        return bool(
            (peer.outgoing and self._outbound[peer.rank].free_bytes)
            or (peer.incoming and self._inbound[peer.rank].chunks)
        )

    def _outstanding(self, peer: _Work) -> Outstanding:
        to_send_bytes, to_receive_bytes = sum(map(len, peer.outgoing)), sum(map(len, peer.incoming))
        return Outstanding(self.peer_name(peer.rank), peer.rank, to_send_bytes, to_receive_bytes)


def _bytes_views(buffers: Sequence[tuple[int, Buffer]], rank: int) -> deque[memoryview]:
    """The buffers for that rank as bytes, without the empty ones."""
    views = (bytes_view(buffer) for peer, buffer in buffers if peer == rank)
    return deque(view for view in views if view)


class _Work:
    """What an exchange still has to move to and from one rank."""

    def __init__(self, rank: int, outgoing: deque[memoryview], incoming: deque[memoryview]) -> None:
        self.rank = rank
        self.outgoing = outgoing
        self.incoming = incoming


class _Pipe:
    """Bytes on their way from one rank to another: first in, first out, at most CAPACITY_BYTES."""

    def __init__(self) -> None:
        self.chunks: deque[memoryview] = deque()
        self.free_bytes = CAPACITY_BYTES
        self.n_pushed = 0
        self.n_pulled = 0
        self.closed = False

    @property
    def is_drained(self) -> bool:
        """Closed, with nothing left to pull."""
        return self.closed and not self.chunks

    def push(self, views: deque[memoryview]) -> int:
        """Copies from the front of `views` what fits, and takes it off them; returns the bytes."""
        n_total = 0
        while views and self.free_bytes and not self.closed:
            n_bytes = min(len(views[0]), self.free_bytes)
            self.chunks.append(memoryview(bytes(views[0][:n_bytes])))
            _drop_front(views, n_bytes)
            self.free_bytes -= n_bytes
            n_total += n_bytes
        self.n_pushed += n_total
        return n_total

    def pull(self, views: deque[memoryview]) -> int:
        """Fills the front of `views` with what is there, and takes it off them; returns the bytes."""
        n_total = 0
        while views and self.chunks:
            n_bytes = min(len(views[0]), len(self.chunks[0]))
            views[0][:n_bytes] = self.chunks[0][:n_bytes]
            _drop_front(views, n_bytes)
            _drop_front(self.chunks, n_bytes)
            self.free_bytes += n_bytes
            n_total += n_bytes
        self.n_pulled += n_total
        return n_total


def _drop_front(views: deque[memoryview], n_bytes: int) -> None:
    """Takes `n_bytes`, at most those of the first view, off the front."""
    if n_bytes == len(views[0]):
        views.popleft()
    else:
        views[0] = views[0][n_bytes:]
