"""Candidates as any number of ranks would send them, from logits that are at hand."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from dllama.kernels import Cpu
from dllama.model import Candidates, LogitRows, merge_candidates
from dllama.model.candidates import select_candidates

DEVICE = Cpu(1)


def candidates_of(logits: NDArray[np.float32], wanted: LogitRows, cuts: Sequence[int] = ()) -> Candidates:
    """Those of `logits` [N, V], as ranks with the vocabulary cut at `cuts` (ascending) find them together."""
    edges = [0, *cuts, logits.shape[1]]
    parts = [
        select_candidates(DEVICE, DEVICE.bind(np.ascontiguousarray(logits[:, start:stop])), wanted, start)
        for start, stop in itertools.pairwise(edges)
    ]
    return merge_candidates(parts, wanted)
