"""What a fabric of MPI messages hands to MPI, and takes back.

The first import of MPI is here: it must neither start MPI nor end it.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import Any

import mpi4py

mpi4py.rc.initialize = False  # importing must not start MPI,
mpi4py.rc.finalize = False  # and a process that failed must not wait for the others: MpiJob decides

from mpi4py import MPI  # noqa: E402

from dllama.fabric.base import Buffer, WritableBuffer, bytes_view  # noqa: E402

__all__ = ["MPI", "Goodbye", "Message", "Messages", "add_messages", "is_through"]

_MESSAGE_BYTES = 4 << 20
"""Longer buffers travel as several messages, so that a slow link shows progress: 0.4 s at 100 Mbit/s."""

_DATA, _GOODBYE = 1, 2  # tags
_N_MESSAGES = struct.Struct("<Q")

Message = tuple[MPI.Request, int, int, bool]
"""What travels in an exchange: the request, which keeps the memory alive, the other rank, the bytes, whether they come
from it."""

Messages = list[Message]


def add_messages(
    messages: Messages,
    receive: Callable[..., MPI.Request],
    send: Callable[..., MPI.Request],
    sends: Sequence[tuple[int, Buffer]],
    receives: Sequence[tuple[int, WritableBuffer]],
) -> None:
    """Fills `messages`, which has what MPI got even when this is interrupted; receives first, so that what comes finds
    its place."""
    byte = MPI.BYTE
    for rank, writable in receives:
        for view in _pieces(writable):
            messages.append((receive((view, byte), rank, _DATA), rank, view.nbytes, True))
    for rank, buffer in sends:
        for view in _pieces(buffer):
            messages.append((send((view, byte), rank, _DATA), rank, view.nbytes, False))


def is_through(request: MPI.Request) -> bool:
    """Whether MPI is done with it, well or not."""
    try:
        return bool(request.Test())
    except MPI.Exception:
        return True


class Goodbye:
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
