"""Tensors of a checkpoint as runs of rows, which threads read and quantise a few ahead of who writes them."""

from __future__ import annotations

import collections
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from dllama.checkpoint.checkpoint import Checkpoint
from dllama.checkpoint.recipes import fill
from dllama.sharding import Tensor

# Source and result of a chunk (bf16 to q40: 2 MB and 0.6 MB, 4 MB of float32 between them) stay in a core's caches
# between reading, converting and writing, and a call costs nothing beside a million elements.
CHUNK_ELEMENTS = 1 << 20


def chunks_of(
    checkpoint: Checkpoint, parts: Iterable[tuple[Tensor, range]], n_threads: int
) -> Iterator[tuple[Tensor, NDArray[np.uint8]]]:
    """Tensors, or some rows of them, each in its type, run of rows after run of rows, checked for NaN. Raises
    NumericalError."""

    def read(tensor: Tensor, rows: range) -> NDArray[np.uint8]:
        out = np.empty((len(rows), tensor.row_bytes), np.uint8)
        importance = checkpoint.importance.get(tensor.name)
        fill(out, tensor.dtype, checkpoint.recipe(tensor.name), rows, range(tensor.n_cols), importance)
        return out

    pool = ThreadPoolExecutor(n_threads)
    ahead: collections.deque[tuple[Tensor, Future[NDArray[np.uint8]]]] = collections.deque()
    try:
        for tensor, rows in _runs(parts):
            ahead.append((tensor, pool.submit(read, tensor, rows)))
            if len(ahead) > n_threads:
                first, chunk = ahead.popleft()
                yield first, chunk.result()
        for tensor, chunk in ahead:
            yield tensor, chunk.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _runs(parts: Iterable[tuple[Tensor, range]]) -> Iterator[tuple[Tensor, range]]:
    for tensor, rows in parts:
        rows_at_once = max(1, CHUNK_ELEMENTS // tensor.n_cols)
        for start in range(0, len(rows), rows_at_once):
            yield tensor, rows[start : start + rows_at_once]
