"""What groups of ranks do together, written once on top of `exchange`.

Every rank of the fabric makes the same call. Buffers and errors are those of Fabric.exchange; sizes are known
to both sides beforehand. Every rank talks to every other directly, so each call takes one network latency.
What all ranks do alike, again and again in every layer, is prepared: call what the function returns, with the timeout.
Reducing collectives live with the kernels that add, in model/.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TypeVar

from dllama.fabric.base import Buffer, Fabric, PreparedExchange, WritableBuffer, bytes_view

_AnyBuffer = TypeVar("_AnyBuffer", Buffer, WritableBuffer)


def broadcast(fabric: Fabric, buffer: WritableBuffer, root: int, timeout_s: float | None) -> None:
    """Every rank's `buffer` becomes the root's. The root's own is only read."""
    if fabric.rank == root:
        fabric.exchange(_to_all(fabric, buffer), [], timeout_s)
    else:
        fabric.exchange([], [(root, buffer)], timeout_s)


def scattered_broadcast(fabric: Fabric, buffer: WritableBuffer, root: int, timeout_s: float | None) -> None:
    """A broadcast of a large buffer: the root sends every other rank a part, and they send the parts to each other.

    Takes two latencies, but no link carries more than about the size of `buffer`, where `broadcast` loads the root's
    with that for each rank.
    """
    if fabric.n_ranks == 1:
        return
    view = bytes_view(buffer)
    others = [rank for rank in range(fabric.n_ranks) if rank != root]
    edges = [view.nbytes * i // len(others) for i in range(len(others) + 1)]
    spans = itertools.pairwise(edges)
    parts = {rank: view[start:stop] for rank, (start, stop) in zip(others, spans, strict=True)}
    peers = [rank for rank in _peers(fabric) if rank != root]
    if fabric.rank == root:
        fabric.exchange([(rank, parts[rank]) for rank in peers], [], timeout_s)
        return
    own = parts[fabric.rank]
    fabric.exchange([], [(root, own)], timeout_s)
    fabric.exchange([(rank, own) for rank in peers], [(rank, parts[rank]) for rank in peers], timeout_s)


def gather(
    fabric: Fabric, own: Buffer, parts: Sequence[WritableBuffer | None], root: int, timeout_s: float | None
) -> None:
    """The root's `parts[r]` becomes rank r's `own`, for every other rank r.

    Sizes may differ between ranks. On the root `own` and `parts[root]` are not touched; on others `parts` is
    not (pass an empty list).
    """
    if fabric.rank == root:
        fabric.exchange([], _of_peers(fabric, parts), timeout_s)
    else:
        fabric.exchange([(root, own)], [], timeout_s)


def exchange_all(fabric: Fabric, own: Buffer, received: Sequence[WritableBuffer | None]) -> PreparedExchange:
    """Sends `own` to every other rank while `received[r]` becomes rank r's `own`; `received[own rank]` is not
    touched (None, for example)."""
    return fabric.prepare(_to_all(fabric, own), _of_peers(fabric, received))


def all_to_all(
    fabric: Fabric, parts: Sequence[Buffer | None], received: Sequence[WritableBuffer | None]
) -> PreparedExchange:
    """Sends `parts[r]` to rank r while `received[r]` becomes what rank r sends here, for every other rank r.

    The entries of the own rank are not touched (None, for example). Adding up `received` makes it a
    reduce-scatter.
    """
    return fabric.prepare(_of_peers(fabric, parts), _of_peers(fabric, received))


def all_gather(fabric: Fabric, whole: WritableBuffer, sizes: Sequence[int]) -> PreparedExchange:
    """Completes `whole`, the parts of all ranks one after the other, of which the own one is in place.

    `sizes[r]` is the number of bytes of rank r's part, 0 allowed; their sum is the size of `whole`.
    """
    view = bytes_view(whole)
    assert view.nbytes == sum(sizes), f"{view.nbytes} bytes are not the sum of {list(sizes)}"
    edges = itertools.accumulate(sizes, initial=0)
    parts = [view[start:stop] for start, stop in itertools.pairwise(edges)]
    return exchange_all(fabric, parts[fabric.rank], parts)


def _to_all(fabric: Fabric, own: Buffer) -> list[tuple[int, Buffer]]:
    return [(rank, own) for rank in _peers(fabric)]


def _of_peers(fabric: Fabric, buffers: Sequence[_AnyBuffer | None]) -> list[tuple[int, _AnyBuffer]]:
    """`buffers[r]` for every other rank r: what is sent to it, or received from it."""
    pairs = []
    for rank in _peers(fabric):
        buffer = buffers[rank]
        assert buffer is not None, f"no buffer for rank {rank}"
        pairs.append((rank, buffer))
    return pairs


def _peers(fabric: Fabric) -> list[int]:
    """The other ranks, beginning after the own one, so that not everyone sends to rank 0 first."""
    n_ranks, rank = fabric.n_ranks, fabric.rank
    return [(rank + step) % n_ranks for step in range(1, n_ranks)]
