"""A fabric of MPI messages, for processes that `mpiexec` or a job scheduler has started together.

Every buffer is one message (a large one several), so a receiver notices when sizes differ. MPI has no waits with a
deadline and no word for a peer that leaves: waits poll, and who closes says goodbye on a tag of its own.

Import this module only where `launched_rank` gives a rank: it needs mpi4py, the extra `dllama[mpi]`.
"""

from __future__ import annotations

import os
import struct
import threading
import time
from collections.abc import Sequence
from typing import Any, NoReturn

import mpi4py

mpi4py.rc.initialize = False  # importing must not start MPI,
mpi4py.rc.finalize = False  # and a process that failed must not wait for the others: MpiJob decides

from mpi4py import MPI  # noqa: E402

from dllama.errors import PeerError, PeerLostError, PeerProtocolError, PeerTimeoutError  # noqa: E402
from dllama.fabric.base import SPIN_S, Buffer, WritableBuffer, bytes_view  # noqa: E402
from dllama.fabric.failures import FirstFailure, Outstanding, lost_error, timeout_error  # noqa: E402

_MESSAGE_BYTES = 4 << 20
"""Longer buffers travel as several messages, so that a slow link shows progress: 0.4 s at 100 Mbit/s."""

_SLEEP_FRACTION = 1 / 16
_LONGEST_SLEEP_S = 4e-3
"""A wait sleeps for a sixteenth of what it has lasted, so it ends that much late at the most. A look costs some 20 us
on a slow core, a few hundred a second about 1 % of it."""

_GOODBYE_S = 1.0
_CONNECT_S = 60.0
_LEAVE_S = 10.0

_DATA, _GOODBYE = 1, 2  # tags
_N_MESSAGES = struct.Struct("<Q")


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


class MpiFabric:
    """See Fabric. Made by MpiJob.connect. `close` from another thread ends a wait within _LONGEST_SLEEP_S."""

    def __init__(self, communicator: MPI.Intracomm, *, spin_s: float = SPIN_S) -> None:
        """Takes the communicator over, which nobody else uses. Collective: every rank does it at the same time.
        Raises PeerTimeoutError when one does not."""
        self._comm = communicator
        self._rank: int = communicator.Get_rank()
        self._n_ranks: int = communicator.Get_size()
        self._spin_s = spin_s
        self._failure = FirstFailure()
        self._lock = threading.Lock()  # one thread at a time in MPI
        self._closing = False
        self._abandoned: list[MPI.Request] = []  # MPI may still use their buffers
        self._n_sent = [0] * self._n_ranks  # messages that are through, by rank
        self._n_received = [0] * self._n_ranks  # messages asked for, by rank
        self._sent_bytes = [0] * self._n_ranks
        self._received_bytes = [0] * self._n_ranks
        self._statuses: list[MPI.Status] = []
        peers = [rank for rank in range(self._n_ranks) if rank != self._rank]
        self._goodbyes = {rank: _Goodbye(communicator, rank) for rank in peers}
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
        self._failure.enter()
        with self._lock:
            messages: list[_Message] = []
            try:
                self._post(sends, receives, messages)
                if not self._wait_awake(messages, timeout_s):
                    self._wait(messages.copy(), timeout_s)
            except BaseException:
                self._abandon(messages)
                raise
        self._failure.leave()

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

    def _post(
        self,
        sends: Sequence[tuple[int, Buffer]],
        receives: Sequence[tuple[int, WritableBuffer]],
        messages: list[_Message],
    ) -> None:
        """Hands everything to MPI, receives first, so that what comes finds its place; fills `messages`."""
        receive, send, byte, n_received = self._comm.Irecv, self._comm.Isend, MPI.BYTE, self._n_received
        for rank, writable in receives:
            for view in _pieces(writable):
                n_received[rank] += 1
                messages.append((receive((view, byte), rank, _DATA), rank, view.nbytes, n_received[rank]))
        for rank, buffer in sends:
            for view in _pieces(buffer):
                messages.append((send((view, byte), rank, _DATA), rank, view.nbytes, 0))

    def _wait_awake(self, messages: Sequence[_Message], timeout_s: float | None) -> bool:
        """The usual end of an exchange, in as little Python as can be; False when it takes longer than a spin."""
        requests, statuses = [message[0] for message in messages], self._statuses_of(len(messages))
        test = MPI.Request.Testall
        try:
            if not test(requests, statuses):
                spin_s = self._spin_s if timeout_s is None else min(self._spin_s, timeout_s)
                end = time.monotonic() + spin_s
                while not test(requests, statuses):
                    if time.monotonic() >= end:
                        return False
                    os.sched_yield()
        except MPI.Exception as error:
            through = [pair for pair in zip(messages, statuses, strict=True) if _is_through(pair[0])]
            raise self._refused(messages, through, error) from error
        for message, status in zip(messages, statuses, strict=True):
            self._count(message, status)
        return True

    def _wait(self, pending: list[_Message], timeout_s: float | None) -> None:
        idle_since = time.monotonic()
        while pending:
            is_moving = self._settle(pending)
            now = time.monotonic()
            if is_moving:
                idle_since = now
                continue
            self._check_closing()
            idle_s = now - idle_since
            if idle_s < self._spin_s and (timeout_s is None or idle_s < timeout_s):
                os.sched_yield()
                continue
            self._check_goodbyes(pending)
            if timeout_s is not None and idle_s >= timeout_s:
                raise self._failure.record(timeout_error(self._outstanding(pending), timeout_s))
            time.sleep(min(idle_s * _SLEEP_FRACTION, _LONGEST_SLEEP_S))

    def _settle(self, pending: list[_Message]) -> bool:
        """Takes what is through off `pending` and counts it; False when nothing was. Raises PeerError for what
        went wrong."""
        statuses = self._statuses_of(len(pending))
        try:
            done = MPI.Request.Testsome([message[0] for message in pending], statuses)
        except MPI.Exception as error:
            through = filter(_is_through, pending)
            raise self._refused(pending, list(zip(through, statuses, strict=False)), error) from error
        if not done:
            return False
        for index, status in zip(done, statuses, strict=False):
            self._count(pending[index], status)
        gone = set(done)
        pending[:] = [message for index, message in enumerate(pending) if index not in gone]
        return True

    def _count(self, message: _Message, status: MPI.Status) -> None:
        """One that is through. Raises PeerProtocolError for one of another size than was expected."""
        _, rank, n_bytes, number = message
        if not number:
            self._n_sent[rank] += 1
            self._sent_bytes[rank] += n_bytes
            return
        n_come = status.Get_count(MPI.BYTE)
        self._received_bytes[rank] += n_come
        if n_come != n_bytes:
            raise self._size_error(rank, n_bytes, f"{n_come} bytes")

    def _statuses_of(self, n: int) -> list[MPI.Status]:
        while len(self._statuses) < n:
            self._statuses.append(MPI.Status())
        return self._statuses[:n]

    def _check_closing(self) -> None:
        if self._closing:
            self._failure.check()

    def _check_goodbyes(self, pending: Sequence[_Message]) -> None:
        """Raises PeerLostError when a peer has closed that still owes something."""
        for _, rank, _, number in pending:
            n_sent = self._goodbyes[rank].n_sent
            if n_sent is not None and not 0 < number <= n_sent:
                raise self._failure.record(
                    lost_error(self._outstanding_of(rank, pending), "it closed the connection")
                )

    def _refused(
        self,
        pending: Sequence[_Message],
        through: Sequence[tuple[_Message, MPI.Status]],
        error: MPI.Exception,
    ) -> PeerError:
        """What MPI's `error` means, by the statuses of those that are through; recorded."""
        (_, rank, n_bytes, _), code = pending[0], error.Get_error_code()
        for message, status in through:
            if status.Get_error() != MPI.SUCCESS:
                (_, rank, n_bytes, _), code = message, status.Get_error()
                break
        if MPI.Get_error_class(code) == MPI.ERR_TRUNCATE:
            return self._size_error(rank, n_bytes, "a longer message")
        reason = MPI.Get_error_string(code).lower()
        return self._failure.record(lost_error(self._outstanding_of(rank, pending), reason))

    def _size_error(self, rank: int, n_bytes: int, what: str) -> PeerError:
        """`what` came in place of `n_bytes`; recorded."""
        return self._failure.record(
            PeerProtocolError(
                f"{self.peer_name(rank)} (rank {rank}) sent {what} where {n_bytes} bytes were expected; "
                "install the same release of dllama on all nodes"
            )
        )

    def _outstanding(self, pending: Sequence[_Message]) -> list[Outstanding]:
        ranks = dict.fromkeys(rank for _, rank, _, _ in pending)
        return [self._outstanding_of(rank, pending) for rank in ranks]

    def _outstanding_of(self, rank: int, pending: Sequence[_Message]) -> Outstanding:
        to_send = sum(n_bytes for _, peer, n_bytes, number in pending if peer == rank and not number)
        to_receive = sum(n_bytes for _, peer, n_bytes, number in pending if peer == rank and number)
        return Outstanding(self.peer_name(rank), rank, to_send, to_receive)

    def _abandon(self, messages: Sequence[_Message]) -> None:
        """Takes receives back where MPI lets go of them, and keeps the memory of the others from being used again."""
        for message in messages:
            request, _, _, number = message
            if _is_through(message):
                continue
            if number:
                request.Cancel()
            self._abandoned.append(request)


_Message = tuple[MPI.Request, int, int, int]
"""What is on its way: the request, which keeps the memory alive, the other rank, the bytes, and the number among those
from that rank, 0 when it goes there."""


def _is_through(message: _Message) -> bool:
    return bool(message[0] == MPI.REQUEST_NULL)


class _Goodbye:
    """The last message between this rank and another, either way: how many others were sent before it."""

    def __init__(self, communicator: MPI.Intracomm, rank: int) -> None:
        self.rank = rank
        self._comm = communicator
        self._heard = bytearray(_N_MESSAGES.size)
        self._hearing = communicator.Irecv([self._heard, MPI.BYTE], rank, _GOODBYE)
        self._saying: MPI.Request | None = None

    @property
    def n_sent(self) -> int | None:
        """Messages that the peer had sent when it closed; None while it has not."""
        if not self._hearing.Test():
            return None
        n_messages: int = _N_MESSAGES.unpack(self._heard)[0]
        return n_messages

    def say(self, n_messages: int) -> None:
        self._saying = self._comm.Isend([_N_MESSAGES.pack(n_messages), MPI.BYTE], self.rank, _GOODBYE)

    def is_said(self) -> bool:
        return self._saying is None or bool(self._saying.Test())

    def stop_listening(self) -> None:
        if not self._hearing.Test():
            self._hearing.Cancel()
            self._hearing.Wait()


def _pieces(buffer: Buffer) -> Sequence[memoryview]:
    """The buffer as it travels; an empty one does not. Raises TypeError when it is not contiguous."""
    memory: Any = buffer
    view = memoryview(memory)
    if 0 < view.nbytes <= _MESSAGE_BYTES and view.c_contiguous:
        return (view,)  # MPI asks for its bytes, whatever its elements are
    view = bytes_view(buffer)
    return [view[start : start + _MESSAGE_BYTES] for start in range(0, len(view), _MESSAGE_BYTES)]
