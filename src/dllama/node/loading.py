"""Weights from the root's file into every rank's memory, to all ranks at the same time.

Both sides walk the same rounds: in each round every rank gets the same part of the same tensor, its own rows or
columns of it, so no headers travel. The root reads ahead of what it sends, and a worker packs while it receives.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from dllama.checkpoint import Checkpoint
from dllama.fabric import Fabric
from dllama.model import ModelSpec, ModelWeights
from dllama.model.weights import Bytes
from dllama.sharding import Shard, ShardPlan, shard_of

_ROUND_BYTES = 4 << 20
"""One round, all ranks together: bounds the root's memory, and is far above what a link holds in flight."""

_N_PACKING = 2
"""Rounds that may still be packed while the next one travels: packing stalls where the system looks for memory."""

_LET_GO_BYTES = 16 << 20
"""How much of the mapped file may stay resident while loading."""


@dataclasses.dataclass(frozen=True)
class Part:
    """Rows [first_row, first_row + n_rows) of one rank's shard, counted from the shard's first row; of a stack, through
    all of its matrices."""

    shard: Shard
    first_row: int
    n_rows: int

    @property
    def n_bytes(self) -> int:
        return self.n_rows * self.shard.row_bytes


def rounds(model: ModelSpec, plan: ShardPlan) -> Iterator[list[Part]]:
    """For each round the parts of all ranks, in rank order; a part may be empty."""
    for tensor in model.held():
        shards = [shard_of(tensor, spans) for spans in plan.ranks]
        n_parts = -(-sum(shard.n_bytes for shard in shards) // _ROUND_BYTES)
        for index in range(n_parts):
            yield [_part(shard, index, n_parts) for shard in shards]


def send_weights(
    checkpoint: Checkpoint,
    plan: ShardPlan,
    fabric: Fabric,
    weights: ModelWeights,
    timeout_s: float,
    on_progress: Callable[[int], None],
) -> None:
    """Fills the root's own `weights` and sends every other rank its shards.

    `on_progress` gets the bytes placed since its last call. Raises NumericalError, ModelFileError or PeerError.
    """
    resident = 0
    with _pool(plan.n_ranks + 1) as pool:
        packing: collections.deque[Future[None]] = collections.deque()
        for parts, futures in _read_ahead(pool, checkpoint, plan):
            chunks = [future.result() for future in futures]
            packing.append(pool.submit(weights.put, parts[0].shard, parts[0].first_row, chunks[0]))
            fabric.exchange(list(enumerate(chunks))[1:], [], timeout_s)
            if len(packing) > _N_PACKING:
                packing.popleft().result()
            n_bytes = sum(part.n_bytes for part in parts)
            on_progress(n_bytes)
            resident += n_bytes
            if resident >= _LET_GO_BYTES:
                checkpoint.let_go()
                resident = 0
        for future in packing:
            future.result()
    checkpoint.let_go()


def receive_weights(
    model: ModelSpec, plan: ShardPlan, fabric: Fabric, weights: ModelWeights, timeout_s: float
) -> None:
    """Fills `weights` with what the root sends. Raises NumericalError or PeerError.

    A NumericalError comes only after everything was received, so that the connection can still carry it.
    """
    own = [parts[fabric.rank] for parts in rounds(model, plan)]
    staging = [np.empty(max(part.n_bytes for part in own), np.uint8) for _ in range(_N_PACKING + 1)]
    with _pool(1) as pool:
        packing: list[Future[None]] = []
        for index, part in enumerate(own):
            if index >= len(staging):
                packing[index - len(staging)].exception()  # waits: its staging buffer is free afterwards
            buffer = staging[index % len(staging)][: part.n_bytes]
            fabric.exchange([], [(0, buffer)], timeout_s)
            rows = buffer.reshape(part.n_rows, part.shard.row_bytes)
            packing.append(pool.submit(weights.put, part.shard, part.first_row, rows))
        for future in packing:
            future.result()


def _read_ahead(
    pool: ThreadPoolExecutor, checkpoint: Checkpoint, plan: ShardPlan
) -> Iterator[tuple[list[Part], list[Future[Bytes]]]]:
    """The rounds with their bytes on the way, one round ahead of whoever asks.

    Bytes of a round are good while it and the _N_PACKING rounds after it are sent. Memory that is used again and again
    costs no page faults.
    """
    all_parts = list(rounds(checkpoint.model, plan))
    sizes = [max(part.n_bytes for part in parts) for parts in zip(*all_parts, strict=True)]
    staging = [[np.empty(size, np.uint8) for size in sizes] for _ in range(_N_PACKING + 2)]
    following: tuple[list[Part], list[Future[Bytes]]] | None = None
    for number, parts in enumerate(all_parts):
        current = following
        buffers = staging[number % len(staging)]
        reads = [
            pool.submit(_read, checkpoint, part, buffer) for part, buffer in zip(parts, buffers, strict=True)
        ]
        following = parts, reads
        if current is not None:
            yield current
    if following is not None:
        yield following


def _read(checkpoint: Checkpoint, part: Part, staging: Bytes) -> Bytes:
    """The part's bytes: a view of the mapped file where they lie in one run as they are wanted, else in `staging`."""
    shard = part.shard
    out = staging[: part.n_bytes].reshape(part.n_rows, shard.row_bytes)
    cols = shard.cols.start, shard.cols.stop
    done = 0
    for rows in _stored_rows(part):
        to = out[done : done + rows[1] - rows[0]]
        done += len(to)
        if not checkpoint.is_stored(shard.name):
            checkpoint.read(shard.name, rows, cols, to)
            continue
        view = checkpoint.read(shard.name, rows, cols)
        if view.flags.c_contiguous and len(view) == part.n_rows:
            return view
        np.copyto(to, view)
    return out


def _stored_rows(part: Part) -> Iterator[tuple[int, int]]:
    """The part's rows [start, stop) in the tensor, one run for each matrix of a stack."""
    tensor, rows = part.shard.tensor, part.shard.rows
    first, stop = part.first_row, part.first_row + part.n_rows
    while first < stop:
        number, within = divmod(first, len(rows))
        n = min(len(rows) - within, stop - first)
        start = number * tensor.n_rows + rows.start + within
        yield start, start + n
        first += n


def _part(shard: Shard, index: int, n_parts: int) -> Part:
    first = shard.n_rows * index // n_parts
    return Part(shard, first, shard.n_rows * (index + 1) // n_parts - first)


@contextlib.contextmanager
def _pool(n_threads: int) -> Iterator[ThreadPoolExecutor]:
    """A thread pool that an error does not have to wait for longer than the calls already under way."""
    pool = ThreadPoolExecutor(n_threads, thread_name_prefix="load")
    try:
        yield pool
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
