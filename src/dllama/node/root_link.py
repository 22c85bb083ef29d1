"""A worker's side of the way to its root, before they share a fabric: a call that came in, or an MPI job."""

from __future__ import annotations

import logging
import queue
from collections.abc import Callable, Sequence
from typing import Protocol

from dllama.errors import (
    PeerError,
    PeerProtocolError,
    PeerTimeoutError,
    PeerUnreachableError,
    SystemLimitError,
)
from dllama.fabric import Fabric, Heartbeat, Job, SocketChannel, TcpFabric, TcpPeer, receive_frame, send_frame
from dllama.node.door import Door
from dllama.node.greeting import GREETING_TIMEOUT_S, call, call_heartbeat
from dllama.node.messages import MAX_CONTROL_BYTES, Hello, Kind, Refusal, Role
from dllama.node.reach import place_of_worker
from dllama.node.shortage import shortages_told

_log = logging.getLogger(__name__)

_JOIN_S = GREETING_TIMEOUT_S + 2.0
"""How long a worker waits for another one's call: who calls says first what is in the way."""

_LATER_S = 2.0
"""How much longer than the root a worker waits for a silent worker."""


class RootLink(Protocol):
    """A root that has been welcomed. All methods raise PeerError."""

    @property
    def name(self) -> str:
        """What messages to people call the root."""

    def receive_orders(self) -> tuple[int, bytearray]:
        """The kind and payload of the root's first message. From now on the root can tell that this node is there."""

    def refuse(self, reason: str) -> None:
        """Tells the root, before `join` has returned, why its orders cannot be carried out."""

    def join(self, session: str, rank: int, addresses: Sequence[str], peer_timeout_s: float) -> Fabric:
        """The session's fabric, with all other ranks on it. `addresses` and `peer_timeout_s` are those of the
        orders."""

    def close(self) -> None:
        """Lets the root go; after `join` that is the fabric's `close` alone."""


class CallingRoot:
    """See RootLink. `channel` comes from the door, which also lets in the other workers of the session."""

    def __init__(self, channel: SocketChannel, door: Door) -> None:
        self.name = channel.name
        self._channel = channel
        self._door = door
        self._heartbeat: Heartbeat | None = None

    def receive_orders(self) -> tuple[int, bytearray]:
        self._channel.set_deadline(GREETING_TIMEOUT_S)
        orders = self._channel.receive_frame(MAX_CONTROL_BYTES)
        try:
            with shortages_told():
                self._heartbeat = Heartbeat(self._door.heartbeats)
        except SystemLimitError as error:
            self.refuse(str(error))
            raise
        return orders

    def refuse(self, reason: str) -> None:
        # The deadline of the orders may have passed over what went wrong.
        self._channel.set_deadline(GREETING_TIMEOUT_S)
        self._channel.send_frame(Kind.FAILED, Refusal(reason).encode())

    def join(self, session: str, rank: int, addresses: Sequence[str], peer_timeout_s: float) -> TcpFabric:
        """The mesh: this worker calls those of lower rank and is called by those of higher rank.

        The addresses are those that the root uses. What it reaches on its own loopback is at the root's address for us.
        """
        assert self._heartbeat is not None, "orders come first"
        peers = {0: TcpPeer(self._channel.connection, f"root {self.name}")}
        try:
            for lower in range(1, rank):
                peers[lower] = self._call(lower, Hello(Role.WORKER, session, rank), addresses[lower])
            while missing := [higher for higher in range(rank + 1, len(addresses)) if higher not in peers]:
                higher, channel = self._next_peer([addresses[one] for one in missing])
                if higher not in missing:
                    channel.connection.close()
                    raise PeerProtocolError(
                        f"{channel.name} says that it is rank {higher}, which is impossible"
                    )
                peers[higher] = TcpPeer(channel.connection, f"worker {addresses[higher]}")
        except BaseException:
            for peer in list(peers.values())[1:]:
                peer.connection.close()
            raise
        # The root notices first, and says who is lost.
        self._heartbeat.watch({peer: peer_timeout_s + (_LATER_S if peer else 0.0) for peer in peers})
        return TcpFabric(rank, peers, heartbeat=self._heartbeat)

    def _call(self, rank: int, hello: Hello, address: str) -> TcpPeer:
        """Another worker, which has let this one in. The root gets to know that it could not be reached, and no more:
        what else is there is not for whoever calls himself a root."""
        assert self._heartbeat is not None, "orders come first"
        try:
            place = place_of_worker(address, self.name)
            channel, _ = call(place, hello)
            try:
                self._heartbeat.add(rank, call_heartbeat(place, hello.session, hello.rank))
            except BaseException:
                channel.connection.close()
                raise
        except PeerError as error:
            _log.warning("calling worker %s for root %s: %s", address, self.name, str(error))
            raise PeerUnreachableError(
                f"it cannot reach worker {address}; see whether both are in one network and no firewall is between "
                "them (its own output says more)"
            ) from error
        return TcpPeer(channel.connection, f"worker {address}")

    def _next_peer(self, missing: Sequence[str]) -> tuple[int, SocketChannel]:
        """A worker of higher rank that has called. Raises PeerTimeoutError naming the addresses of those `missing`."""
        try:
            return self._door.next_peer(_JOIN_S)
        except queue.Empty:
            raise PeerTimeoutError(
                f"{' and '.join(missing)} of the same session did not reach it within {_JOIN_S:g} s; see whether the "
                "workers can reach each other, and no firewall is between them"
            ) from None

    def close(self) -> None:
        self._channel.connection.close()
        if self._heartbeat is not None:
            self._heartbeat.close()


class JobRoot:
    """See RootLink."""

    def __init__(self, job: Job, answer: Callable[[], tuple[Kind, bytes]]) -> None:
        """Waits until the root calls to a session, without a deadline, and sends it `answer()`. Raises PeerLostError
        when the root has left."""
        kind, payload = receive_frame(job.lobby, 0, MAX_CONTROL_BYTES, None)
        self.name = job.lobby.peer_name(0)
        if kind != Kind.HELLO:
            raise PeerProtocolError(f"{self.name} sent a message of kind {kind} in place of a greeting")
        Hello.decode(payload, self.name)
        self._fabric = job.connect()
        answer_kind, said = answer()
        send_frame(self._fabric, [0], answer_kind, said, timeout_s=GREETING_TIMEOUT_S)

    def receive_orders(self) -> tuple[int, bytearray]:
        return receive_frame(self._fabric, 0, MAX_CONTROL_BYTES, GREETING_TIMEOUT_S)

    def refuse(self, reason: str) -> None:
        reasons = Refusal(reason).encode()
        send_frame(self._fabric, [0], Kind.FAILED, reasons, timeout_s=GREETING_TIMEOUT_S)

    def join(self, session: str, rank: int, addresses: Sequence[str], peer_timeout_s: float) -> Fabric:
        if (rank, len(addresses)) != (self._fabric.rank, self._fabric.n_ranks):
            raise PeerProtocolError(f"{self.name} takes this node for rank {rank} of {len(addresses)}")
        return self._fabric

    def close(self) -> None:
        self._fabric.close()
