"""A fabric of MPI messages, for processes that `mpiexec` or a job scheduler has started together.

Every buffer is one message (a large one several), so a receiver notices when sizes differ. MPI has no waits with a
deadline and no word for a peer that leaves: waits poll, and who closes says goodbye on a tag of its own.

Import this module only where `launched_rank` gives a rank: it needs mpi4py, the extra `dllama[mpi]`.
"""

from __future__ import annotations

import itertools
import os
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NoReturn

from dllama.errors import PeerError, PeerLostError, PeerProtocolError, PeerTimeoutError
from dllama.fabric.base import SPIN_S, Buffer, PreparedExchange, WritableBuffer
from dllama.fabric.failures import Outstanding, Unwatched
from dllama.fabric.mpi_messages import MPI, Goodbye, Message, Messages, add_messages, is_through

_SLEEP_FRACTION = 1 / 16
_LONGEST_SLEEP_S = 4e-3
"""A wait sleeps for a sixteenth of what it has lasted, so it ends that much late at the most. A look costs some 20 us
on a slow core, a few hundred a second about 1 % of it."""

_GOODBYE_S = 1.0
_CONNECT_S = 60.0
_LEAVE_S = 10.0


class MpiJob:
    """See Job: this process's membership, which begins once in its life."""

    def __init__(self) -> None:
        """Every process of the job does it. Raises PeerTimeoutError when one does not."""
        MPI.Init_thread(MPI.THREAD_SERIALIZED)
        self._world = MPI.COMM_WORLD
        self.rank: int = self._world.Get_rank()
        self.n_ranks: int = self._world.Get_size()
        self.lobby = self.connect()

    def connect(self) -> MpiFabric:
        communicator, request = self._world.Idup()
        deadline = time.monotonic() + _CONNECT_S
        while not request.Test():
            if time.monotonic() >= deadline:
                raise PeerTimeoutError(
                    f"the {self.n_ranks} processes of this MPI job did not come together within {_CONNECT_S:g} s; "
                    "see whether all of them run"
                )
            time.sleep(_LONGEST_SLEEP_S)
        return MpiFabric(communicator)

    def leave(self) -> None:
        """Ends MPI in good order; all processes do it. Who waits for one that does not is ended after _LEAVE_S."""
        self.lobby.close()
        watchdog = threading.Timer(_LEAVE_S, self.abort, (1,))
        watchdog.daemon = True
        watchdog.start()
        MPI.Finalize()
        watchdog.cancel()

    def abort(self, exit_code: int) -> NoReturn:
        """Ends all processes of the job at once, with that exit code, whatever they do."""
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # MPI would say in its own words what has been said
        self._world.Abort(exit_code)
        os._exit(exit_code)


class MpiFabric(Unwatched):
    """See Fabric. Made by MpiJob.connect. `close` from another thread ends a wait within _LONGEST_SLEEP_S."""

    def __init__(self, communicator: MPI.Intracomm, *, spin_s: float = SPIN_S) -> None:
        """Takes the communicator over, which nobody else uses. Collective: every rank does it at the same time.
        Raises PeerTimeoutError when one does not."""
        super().__init__()
        self._comm = communicator
        self._rank: int = communicator.Get_rank()
        self._n_ranks: int = communicator.Get_size()
        self._spin_s = spin_s
        self._lock = threading.Lock()  # one thread at a time in MPI
        self._closing = False
        self._abandoned: list[MPI.Request] = []  # MPI may still use their buffers
        self._numbers = itertools.count()
        self._prepared: dict[int, Messages] = {}
        self._dropped: list[int] = []  # those of them that are no longer wanted
        self._n_sent = [0] * self._n_ranks  # messages that are through, by rank
        self._n_received = [0] * self._n_ranks
        self._sent_bytes = [0] * self._n_ranks
        self._received_bytes = [0] * self._n_ranks
        self._status = MPI.Status()  # of the last message that was looked at
        peers = [rank for rank in range(self._n_ranks) if rank != self._rank]
        self._goodbyes = {rank: Goodbye(communicator, rank) for rank in peers}
        self._names = [f"process {rank}" for rank in range(self._n_ranks)]
        self._names = self._exchange_names()

    @property
    def rank(self) -> int:
        return self._rank

    @property
    def n_ranks(self) -> int:
        return self._n_ranks

    def peer_name(self, rank: int) -> str:
        return "this node" if rank == self._rank else self._names[rank]

    @property
    def sent_bytes(self) -> list[int]:
        return list(self._sent_bytes)

    @property
    def received_bytes(self) -> list[int]:
        return list(self._received_bytes)

    def exchange(
        self,
        sends: Sequence[tuple[int, Buffer]],
        receives: Sequence[tuple[int, WritableBuffer]],
        timeout_s: float | None,
    ) -> None:
        messages: Messages = []
        post = partial(add_messages, messages, self._comm.Irecv, self._comm.Isend, sends, receives)
        self._carry(messages, post, timeout_s)

    def prepare(
        self, sends: Sequence[tuple[int, Buffer]], receives: Sequence[tuple[int, WritableBuffer]]
    ) -> PreparedExchange:
        messages: Messages = []
        number = next(self._numbers)
        self._failure.check()
        with self._lock:
            self._free_dropped()
            self._prepared[number] = messages
            try:
                add_messages(messages, self._comm.Recv_init, self._comm.Send_init, sends, receives)
            except BaseException:
                self._dropped.append(number)
                raise
        requests: list[Any] = [message[0] for message in messages]
        exchange = partial(self._carry, messages, partial(MPI.Prequest.Startall, requests))
        weakref.finalize(exchange, self._dropped.append, number)
        return exchange

    def close(self) -> None:
        self._failure.record(PeerLostError("this node closed its connections"))
        was_closing, self._closing = self._closing, True
        with self._lock:
            if was_closing or MPI.Is_finalized():
                return
            for goodbye in self._goodbyes.values():
                goodbye.say(self._n_sent[goodbye.rank])
            deadline = time.monotonic() + _GOODBYE_S
            while time.monotonic() < deadline and not all(g.is_said() for g in self._goodbyes.values()):
                time.sleep(_LONGEST_SLEEP_S)
            for goodbye in self._goodbyes.values():
                goodbye.stop_listening()
            self._dropped[:] = self._prepared
            self._free_dropped()

    def _exchange_names(self) -> list[str]:
        """`process 2 on pi4` for each rank. Every pair talks, so that all connections are there afterwards."""
        own = MPI.Get_processor_name().encode()[:256].ljust(256)
        names = [bytearray(own) for _ in range(self._n_ranks)]
        peers = list(self._goodbyes)
        self.exchange([(rank, own) for rank in peers], [(rank, names[rank]) for rank in peers], _CONNECT_S)
        self._sent_bytes = [0] * self._n_ranks
        self._received_bytes = [0] * self._n_ranks
        hosts = [bytes(name).decode(errors="replace").strip() for name in names]
        return [f"process {rank} on {host}" for rank, host in enumerate(hosts)]

    def _carry(
        self, messages: Sequence[Message], begin: Callable[[], object], timeout_s: float | None
    ) -> None:
        """An exchange of the messages that are on their way once `begin` has been called."""
        self._failure.enter()
        with self._lock:
            try:
                begin()
                pending = self._settle(messages)
                if pending:
                    self._wait(pending, timeout_s)
            except BaseException:
                self._abandon(messages)
                raise
        self._failure.leave()

    def _wait(self, pending: Sequence[Message], timeout_s: float | None) -> None:
        idle_since = time.monotonic()
        while left := self._settle(pending):
            now = time.monotonic()
            idle_s = now - idle_since
            if len(left) < len(pending):
                pending, idle_since = left, now
            elif idle_s < self._spin_s and (timeout_s is None or idle_s < timeout_s):
                os.sched_yield()  # who has not answered may be waiting for this very core
            else:
                self._check_peers(pending, idle_s, timeout_s)
                time.sleep(min(idle_s * _SLEEP_FRACTION, _LONGEST_SLEEP_S))

    def _settle(self, pending: Sequence[Message]) -> Messages:
        """Those that are not through; the others are counted. Raises PeerError for what went wrong."""
        left, status = [], self._status
        for message in pending:
            request, rank, n_bytes, is_receive = message
            try:
                has_ended = request.Test(status)
            except MPI.Exception as error:
                raise self._refused(message, pending, error) from error
            if not has_ended:
                left.append(message)
            elif is_receive:
                n_come = status.Get_count(MPI.BYTE)
                self._n_received[rank] += 1
                self._received_bytes[rank] += n_come
                if n_come != n_bytes:
                    raise self._size_error(rank, n_bytes, f"{n_come} bytes")
            else:
                self._n_sent[rank] += 1
                self._sent_bytes[rank] += n_bytes
        return left

    def _check_peers(self, pending: Sequence[Message], idle_s: float, timeout_s: float | None) -> None:
        """Raises PeerError where what is pending will not come any more, or not in time."""
        if self._closing:
            self._failure.check()
        for rank in dict.fromkeys(message[1] for message in pending):
            n_sent = self._goodbyes[rank].n_sent
            if n_sent is None:
                continue
            directions = [is_receive for _, peer, _, is_receive in pending if peer == rank]
            if not all(directions) or self._n_received[rank] + len(directions) > n_sent:
                waiting = self._outstanding_of(rank, pending)
                raise self._failure.record_lost(waiting, "it closed the connection")
        if timeout_s is not None and idle_s >= timeout_s:
            raise self._failure.record_timeout(self._outstanding(pending), timeout_s)

    def _refused(self, message: Message, pending: Sequence[Message], error: MPI.Exception) -> PeerError:
        """What MPI's `error` of that message means; recorded."""
        _, rank, n_bytes, _ = message
        if error.Get_error_class() == MPI.ERR_TRUNCATE:
            return self._size_error(rank, n_bytes, "a longer message")
        reason = error.Get_error_string().lower()
        return self._failure.record_lost(self._outstanding_of(rank, pending), reason)

    def _size_error(self, rank: int, n_bytes: int, what: str) -> PeerError:
        """`what` came in place of `n_bytes`; recorded."""
        return self._failure.record(
            PeerProtocolError(
                f"{self.peer_name(rank)} (rank {rank}) sent {what} where {n_bytes} bytes were expected; "
                "install the same release of dllama on all nodes"
            )
        )

    def _outstanding(self, pending: Sequence[Message]) -> list[Outstanding]:
        ranks = dict.fromkeys(rank for _, rank, _, _ in pending)
        return [self._outstanding_of(rank, pending) for rank in ranks]

    def _outstanding_of(self, rank: int, pending: Sequence[Message]) -> Outstanding:
        to_send = sum(n_bytes for _, peer, n_bytes, is_receive in pending if peer == rank and not is_receive)
        to_receive = sum(n_bytes for _, peer, n_bytes, is_receive in pending if peer == rank and is_receive)
        return Outstanding(self.peer_name(rank), rank, to_send, to_receive)

    def _abandon(self, messages: Sequence[Message]) -> None:
        """Takes receives back where MPI lets go of them, and keeps the memory of the others from being used again."""
        for request, _, _, is_receive in messages:
            if is_through(request):
                continue
            if is_receive:
                request.Cancel()
            self._abandoned.append(request)

    def _free_dropped(self) -> None:
        """MPI forgets prepared exchanges that are no longer wanted, but for what it may still be at."""
        while self._dropped:
            for request, *_ in self._prepared.pop(self._dropped.pop()):
                if request not in self._abandoned:
                    request.Free()
