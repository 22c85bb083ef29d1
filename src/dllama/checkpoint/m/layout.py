"""The order of matrices in a `.m` file: that of tensors, but for those of experts, which follow each other expert by
expert."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator

from dllama.sharding import Tensor


def in_file_order(tensors: Iterable[Tensor]) -> Iterator[tuple[Tensor, range]]:
    """Each matrix or vector: its tensor, and which of the tensor's rows it is."""
    for n_stacked, run in itertools.groupby(tensors, lambda tensor: tensor.n_stacked):
        together = list(run)
        for number in range(n_stacked):
            for tensor in together:
                yield tensor, range(number * tensor.n_rows, (number + 1) * tensor.n_rows)
