"""The Fabric Protocol: what every transport promises to what is written on top of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeAlias

import numpy.typing as npt

Buffer: TypeAlias = bytes | bytearray | memoryview | npt.NDArray[Any]
"""C-contiguous memory that is read; its element type does not matter."""

WritableBuffer: TypeAlias = bytearray | memoryview | npt.NDArray[Any]
"""C-contiguous memory that is written."""

PreparedExchange: TypeAlias = Callable[[float | None], None]
"""An exchange that is made again and again, each time with the timeout of that time. See Fabric.prepare."""

SPIN_S = 1e-3
"""How long a wait tries again and again before it sleeps. Longer than a sum takes on a wired LAN (some 200 us), and
than the root between two steps (some 400 us): to be woken up would take 50 us of both sides."""


def bytes_view(buffer: Buffer) -> memoryview:
    """The memory of `buffer` as bytes [n], writable where it is. Raises TypeError when not contiguous."""
    memory: Any = buffer  # annotations cannot say before Python 3.12 that an ndarray has the buffer interface
    view = memoryview(memory)
    return view.cast("B") if view.nbytes else memoryview(bytearray())


@dataclasses.dataclass(frozen=True)
class Loss:
    """A peer that is lost: since when (seconds since 1970), and how that was noticed ("it closed the connection")."""

    since: float
    reason: str


class Fabric(Protocol):
    """Connects `n_ranks` ranks, each pair of them directly.

    A fabric is used by one thread at a time; only `close` may come from another one, to end a wait.

    After any failure, `exchange` being interrupted by an exception (a KeyboardInterrupt, say) included, the
    fabric is broken: nobody knows which bytes have arrived, so every later `exchange` raises at once an error
    of the same type that names the first cause. The way on is to close it and to build another.
    """

    @property
    def rank(self) -> int:
        """This process's own number, 0 for the root."""

    @property
    def n_ranks(self) -> int: ...

    def peer_name(self, rank: int) -> str:
        """What messages to people call that rank: an address, where it has one. `rank` may be the own one."""

    def exchange(
        self,
        sends: Sequence[tuple[int, Buffer]],
        receives: Sequence[tuple[int, WritableBuffer]],
        timeout_s: float | None,
    ) -> None:
        """Sends buffers to ranks while it fills buffers from ranks; returns when all are through.

        Both lists may name a rank several times, in any order, never the own one. What a rank sends to
        another arrives in the order sent, across calls too: the k-th buffer received from a rank is the k-th
        one that it sent, and both have the same size (a fabric may notice where they differ, and need not: on
        TCP surplus bytes begin the next buffer). Empty buffers are skipped on both sides. Whatever the sizes,
        two ranks that exchange with each other never block each other: sending and receiving go on together.

        Returning means that the received bytes are complete, and that the sent ones are with the system and
        their buffers may be changed. It does not mean that the peers have them.

        `timeout_s` is the longest time without any progress, a byte moved to or from any of the peers, not
        the longest time of the whole call. None waits until a peer is known to be lost.

        Raises PeerLostError when a peer's connection has ended (naming it, and what was outstanding) and
        PeerTimeoutError when nothing moved for `timeout_s` (naming all who owe bytes, and how many). Any part
        of the buffers may have been sent or filled then, and the fabric is broken.
        """

    def prepare(
        self, sends: Sequence[tuple[int, Buffer]], receives: Sequence[tuple[int, WritableBuffer]]
    ) -> PreparedExchange:
        """An exchange of the same buffers, for as often as it is called: with what they hold then. It keeps them alive.

        Otherwise as `exchange`, and one goes with the other: peers cannot tell them apart. A fabric can save what is
        the same each time.
        """

    @property
    def sent_bytes(self) -> list[int]:
        """Bytes handed to the system so far for each rank, payload only; 0 for the own rank. A snapshot."""

    @property
    def received_bytes(self) -> list[int]:
        """Bytes received so far from each rank, payload only; 0 for the own rank. A snapshot."""

    @property
    def waited_s(self) -> float:
        """Time in all exchanges so far until something had come from every peer that owed bytes; 0 for ever where
        the fabric cannot tell."""

    @property
    def moved_s(self) -> float:
        """The rest of the time in all exchanges so far, with bytes on the way from everyone; as `waited_s`."""

    @property
    def losses(self) -> Mapping[int, Loss]:
        """The ranks that are known to be lost, between exchanges too where the fabric watches its links. A snapshot,
        for any thread."""

    def close(self) -> None:
        """Ends the connections: peers that wait for this rank get PeerLostError. May be called again."""
