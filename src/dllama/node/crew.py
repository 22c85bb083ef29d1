"""The workers of a session as the root meets them: called at their addresses, or there already as an MPI job."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol, TypeVar

from dllama.errors import PeerLostError
from dllama.fabric import (
    Fabric,
    Heartbeat,
    Job,
    SocketChannel,
    TcpFabric,
    TcpPeer,
    peer_address,
    receive_frame,
    send_frame,
)
from dllama.node.greeting import GREETING_TIMEOUT_S, Address, call, call_heartbeat, raise_refusal
from dllama.node.messages import MAX_CONTROL_BYTES, Hello, Kind, Role, Welcome

F = TypeVar("F", bound=Fabric)


class Crew(Protocol):
    """Workers that have been greeted and wait for their orders."""

    @property
    def addresses(self) -> tuple[str, ...]:
        """Each rank's address as the root reaches it, with a number for its host: others may not know its name, or
        another host by it. "" for the root, and where no addresses are needed."""

    @property
    def names(self) -> tuple[str, ...]:
        """What messages to people call each rank."""

    @property
    def welcomes(self) -> tuple[Welcome, ...]:
        """What each worker said of itself, from rank 1 on."""

    def join(
        self, kind: Kind, orders: Callable[[int], bytes], timeout_s: float, peer_timeout_s: float
    ) -> Fabric:
        """Sends rank r a message of that kind with payload orders(r); returns the fabric when all are ready. Raises
        PeerError with what a worker says instead. From now on a rank that has not been heard of for `peer_timeout_s` is
        lost, whatever it does, where the fabric can tell."""

    def close(self) -> None:
        """Lets the workers go; after `join` that is the fabric's `close` alone."""


def greet_crew(workers: Sequence[Address], job: Job | None, session: str) -> Crew:
    """The workers at these addresses, or the other processes of `job`. Raises PeerError."""
    if job is None:
        return CalledCrew(workers, session)
    assert not workers, "a job brings its own workers"
    return JobCrew(job, session)


class CalledCrew:
    """See Crew."""

    def __init__(self, workers: Sequence[Address], session: str) -> None:
        """Greets all workers at the same time. Raises the first PeerError, with all connections closed."""
        self.names = ("this node", *map(str, workers))
        self._heartbeat = Heartbeat()
        try:
            called = _call_all(workers, session, self._heartbeat)
        except BaseException:
            self._heartbeat.close()
            raise
        self._channels = [channel for channel, _, _ in called]
        self.welcomes = tuple(welcome for _, welcome, _ in called)
        self.addresses = ("", *(place for _, _, place in called))

    def join(
        self, kind: Kind, orders: Callable[[int], bytes], timeout_s: float, peer_timeout_s: float
    ) -> TcpFabric:
        for rank, channel in enumerate(self._channels, start=1):
            channel.set_deadline(timeout_s)
            channel.send_frame(kind, orders(rank))
        peers = {
            rank: TcpPeer(channel.connection, f"worker {channel.name}")
            for rank, channel in enumerate(self._channels, start=1)
        }
        self._heartbeat.watch(dict.fromkeys(peers, peer_timeout_s))
        return _when_ready(TcpFabric(0, peers, heartbeat=self._heartbeat), timeout_s)

    def close(self) -> None:
        for channel in self._channels:
            channel.connection.close()
        self._heartbeat.close()


class JobCrew:
    """See Crew."""

    def __init__(self, job: Job, session: str) -> None:
        """Calls the other processes of the job to a session, which has a fabric of its own. Raises PeerError."""
        workers = range(1, job.n_ranks)
        hello = Hello(Role.ROOT, session, 0).encode()
        send_frame(job.lobby, workers, Kind.HELLO, hello, timeout_s=GREETING_TIMEOUT_S)
        self._fabric = job.connect()
        self.addresses = ("",) * job.n_ranks
        self.names = ("this node", *map(self._fabric.peer_name, workers))
        payloads = await_all(self._fabric, Kind.WELCOME, GREETING_TIMEOUT_S)
        self.welcomes = tuple(
            Welcome.decode(payload, self.names[rank]) for rank, payload in enumerate(payloads, start=1)
        )

    def join(
        self, kind: Kind, orders: Callable[[int], bytes], timeout_s: float, peer_timeout_s: float
    ) -> Fabric:
        for rank in range(1, self._fabric.n_ranks):
            send_frame(self._fabric, [rank], kind, orders(rank), timeout_s=timeout_s)
        return _when_ready(self._fabric, timeout_s)

    def close(self) -> None:
        self._fabric.close()


def await_all(fabric: Fabric, wanted: Kind, timeout_s: float) -> list[bytearray]:
    """Waits for that message from every worker; returns the payloads. Raises PeerError with what a worker says
    instead."""
    payloads = []
    for rank in range(1, fabric.n_ranks):
        kind, payload = receive_frame(fabric, rank, MAX_CONTROL_BYTES, timeout_s)
        if kind != wanted:
            raise_refusal(kind, payload, fabric.peer_name(rank))
        payloads.append(payload)
    return payloads


def _when_ready(fabric: F, timeout_s: float) -> F:
    try:
        await_all(fabric, Kind.READY, timeout_s)
    except BaseException:
        fabric.close()
        raise
    return fabric


def _call_all(
    workers: Sequence[Address], session: str, heartbeat: Heartbeat
) -> list[tuple[SocketChannel, Welcome, str]]:
    """What each worker was met by, what it said, and where it is."""
    if not workers:
        return []

    def call_one(rank: int, address: Address) -> tuple[SocketChannel, Welcome, str]:
        channel, welcome = call(address, Hello(Role.ROOT, session, 0))
        try:
            place = peer_address(channel.connection.getpeername())
            heartbeat.add(rank, call_heartbeat(Address.parse(place), session, 0))
        except OSError as error:  # it is not connected any more
            channel.connection.close()
            raise PeerLostError(
                f"worker {address} closed the connection; its own output tells why"
            ) from error
        except BaseException:
            channel.connection.close()
            raise
        return channel, welcome, place

    with ThreadPoolExecutor(len(workers), thread_name_prefix="call") as pool:
        futures = [pool.submit(call_one, rank, address) for rank, address in enumerate(workers, start=1)]
    try:
        for future in futures:
            future.result()
    except BaseException:
        for future in futures:
            if future.exception() is None:
                future.result()[0].connection.close()
        raise
    else:
        return [future.result() for future in futures]
    finally:
        del future, futures  # they keep an error that was raised, and it has this frame now
