"""Control messages: a kind and some bytes, behind a header that a stranger cannot fake by accident.

A header is 16 bytes, little-endian:

    0  4 bytes  MAGIC: no text begins so, and a server that reads lines answers at once
    4  uint16   PROTOCOL_VERSION
    6  uint16   kind; what the kinds mean is up to those who talk
    8  uint64   bytes of the payload that follows

Sizes are checked before anything is allocated, and payloads are never unpickled.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping

from dllama.errors import PeerProtocolError
from dllama.fabric.base import Buffer, Fabric, bytes_view

MAGIC = b"\x8bDL\n"
PROTOCOL_VERSION = 4
"""1 had no heartbeats, and other fields in STATUS, PLAN and PROBE; 3 had one page table for all layers."""

HEADER_BYTES = 16

_HEADER = struct.Struct("<4sHHQ")
assert _HEADER.size == HEADER_BYTES


def encode_header(kind: int, n_bytes: int) -> bytes:
    """The header [16] of a message of that kind with `n_bytes` of payload."""
    return _HEADER.pack(MAGIC, PROTOCOL_VERSION, kind, n_bytes)


def decode_header(header: bytes, max_bytes: int, name: str, role: str = "node") -> tuple[int, int]:
    """Returns (kind, bytes of payload) of a header [16] that `name` sent.

    Raises PeerProtocolError when it is none (`role` is what `name` was taken for: "worker"), is of another
    version, or announces more than `max_bytes`.
    """
    check_magic(header, name, role)
    _, version, kind, n_bytes = _HEADER.unpack(header)
    if version != PROTOCOL_VERSION:
        raise PeerProtocolError(
            f"{name} speaks protocol version {version} and this node version {PROTOCOL_VERSION}; "
            "install the same release of dllama on both"
        )
    if n_bytes > max_bytes:
        raise PeerProtocolError(
            f"{name} announced a message of kind {kind} with {n_bytes} bytes where at most {max_bytes} are "
            "allowed; install the same release of dllama on all nodes"
        )
    return kind, n_bytes


def check_magic(start: bytes, name: str, role: str = "node") -> None:
    """Raises PeerProtocolError when `start`, the first bytes of a message, cannot begin a header."""
    if not MAGIC.startswith(start[: len(MAGIC)]):
        raise PeerProtocolError(f"{name} is not a dllama {role}: it sent {start[:HEADER_BYTES]!r}")


def send_frame(
    fabric: Fabric, ranks: Iterable[int], kind: int, *payload: Buffer, timeout_s: float | None
) -> None:
    """Sends one message to each of `ranks`; its payload is the `payload` buffers one after the other.

    Raises what Fabric.exchange raises.
    """
    send_frames(fabric, kind, dict.fromkeys(ranks, join_buffers(payload)), timeout_s=timeout_s)


def send_frames(
    fabric: Fabric, kind: int, payloads: Mapping[int, Buffer], *, timeout_s: float | None
) -> None:
    """Sends each rank its own payload, all at the same time. Raises what Fabric.exchange raises."""
    sends: list[tuple[int, Buffer]] = []
    for rank, payload in payloads.items():
        sends += [(rank, encode_header(kind, bytes_view(payload).nbytes)), (rank, payload)]
    fabric.exchange(sends, [], timeout_s)


def join_buffers(buffers: Iterable[Buffer]) -> Buffer:
    """One buffer of all bytes, since a receiver knows nothing of a payload's parts."""
    views = [view for view in map(bytes_view, buffers) if view]
    return views[0] if len(views) == 1 else b"".join(views)


def receive_frame(
    fabric: Fabric, rank: int, max_bytes: int, timeout_s: float | None
) -> tuple[int, bytearray]:
    """Returns (kind, payload) of the next message from `rank`. The payload is the caller's, and in memory once.

    `timeout_s` is that of Fabric.exchange, for header and payload each. Raises what Fabric.exchange raises,
    and PeerProtocolError when something else comes than a message of at most `max_bytes`: the surplus of an
    earlier exchange, for instance. Close the fabric then, nobody knows where the next message begins.
    """
    header = bytearray(HEADER_BYTES)
    fabric.exchange([], [(rank, header)], timeout_s)
    kind, n_bytes = decode_header(bytes(header), max_bytes, f"{fabric.peer_name(rank)} (rank {rank})")
    payload = bytearray(n_bytes)
    fabric.exchange([], [(rank, payload)], timeout_s)
    return kind, payload
