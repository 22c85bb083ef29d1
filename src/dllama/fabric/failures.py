"""How fabrics say what went wrong, in the same words whatever carries the bytes."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence

from dllama.errors import Failure, PeerError, PeerLostError, PeerTimeoutError
from dllama.fabric.base import Loss


@dataclasses.dataclass(frozen=True)
class Outstanding:
    """What an exchange still wants to move to and from one peer."""

    name: str
    rank: int
    to_send_bytes: int
    to_receive_bytes: int

    @property
    def who(self) -> str:
        return f"{self.name} (rank {self.rank})"

    @property
    def what(self) -> str:
        parts = []
        if self.to_receive_bytes:
            parts.append(f"{self.to_receive_bytes} bytes from it")
        if self.to_send_bytes:
            parts.append(f"{self.to_send_bytes} bytes to it")
        return " and ".join(parts) or "nothing"


def lost_error(waiting: Outstanding, reason: str) -> PeerLostError:
    """The connection to a peer ended for `reason`."""
    return PeerLostError(
        f"lost {waiting.who}: {reason} with {waiting.what} outstanding; its own output tells why, restart it"
    )


def timeout_error(waiting: Sequence[Outstanding], seconds: float) -> PeerTimeoutError:
    """Nothing moved for `seconds`; `waiting` lists the peers that an exchange waited for."""
    owing = ", ".join(f"{peer.who} with {peer.what} outstanding" for peer in waiting)
    return PeerTimeoutError(
        f"no sign for {seconds:g} s of {owing}; see whether it still runs and is reachable"
    )


class FirstFailure:
    """Remembers why a fabric broke, and which ranks are lost with that. `enter` and `leave` frame every exchange; what
    leaves no trace of its end was interrupted, and that is a failure too."""

    __slots__ = ("_entered", "_failure", "losses")

    def __init__(self) -> None:
        self._failure: Failure[PeerError] | None = None
        self._entered = False
        self.losses: dict[int, Loss] = {}

    def enter(self) -> None:
        """Raises an error of the first failure's type, at once, where there was one."""
        if self._entered:
            self.record(PeerLostError("an exchange between the nodes was interrupted"))
        self.check()
        self._entered = True

    def leave(self) -> None:
        self._entered = False

    def check(self) -> None:
        if self._failure is not None:
            raise self._failure.error("the nodes are no longer connected: ")

    def record(self, error: PeerError, losses: Mapping[int, Loss] | None = None) -> PeerError:
        """Remembers what `error` says, and the ranks that are lost with it, if it is the first one; returns one that
        says what is remembered."""
        if self._failure is None:
            self._failure = Failure.of(error)
            self.losses = dict(losses or {})
            return error
        return self._failure.error()

    def record_lost(
        self, waiting: Outstanding, reason: str, losses: Mapping[int, Loss] | None = None
    ) -> PeerError:
        """As `record`, of the connection to a peer that ended for `reason`; that one is lost where `losses` does not
        say better."""
        return self.record(lost_error(waiting, reason), losses or {waiting.rank: Loss(time.time(), reason)})

    def record_timeout(self, waiting: Sequence[Outstanding], seconds: float) -> PeerError:
        """As `record`, of peers that nothing moved to or from for `seconds`."""
        loss = Loss(time.time() - seconds, f"no sign for {seconds:g} s")
        return self.record(timeout_error(waiting, seconds), {peer.rank: loss for peer in waiting})


class Unwatched:
    """The part of a Fabric that times no exchanges and does not look at its links between them."""

    waited_s = moved_s = 0.0

    def __init__(self) -> None:
        self._failure = FirstFailure()

    @property
    def losses(self) -> dict[int, Loss]:
        """What a failed exchange told."""
        return self._failure.losses
