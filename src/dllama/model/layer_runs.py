"""Which kind each layer is of, said in little space: layers in a row that are alike are one pair of kind and number."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

from dllama.model.limits import LARGEST


def to_runs(kinds: Iterable[int]) -> list[list[int]]:
    return [[kind, len(list(run))] for kind, run in itertools.groupby(kinds)]


def from_runs(runs: Iterable[tuple[int, int]]) -> tuple[int, ...]:
    """The inverse of to_runs. Raises TypeError or ValueError on anything else, and for more layers than can be."""
    runs = list(runs)
    n_layers = sum(n for _, n in runs)
    if n_layers > LARGEST["n_layers"] or any(n < 1 for _, n in runs):
        raise ValueError(f"n_layers is {n_layers}, which cannot be (1 to {LARGEST['n_layers']})")
    return tuple(itertools.chain.from_iterable([kind] * n for kind, n in runs))
