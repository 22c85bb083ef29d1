"""How likely a model finds a text that is given."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from dllama.engine.batch import TokenChunk, ragged_batch
from dllama.engine.executor import Executor
from dllama.model import Candidates, LogitRows


def score(executor: Executor, token_ids: Sequence[int]) -> Iterator[Candidates]:
    """The candidates of all rows of a text, step by step; each row's target is the token after it.

    Nothing else may use the executor meanwhile: the text has its cache to itself.
    """
    size = min(executor.max_rows, executor.max_logit_rows)
    targets = np.asarray([*token_ids[1:], -1], np.int32)
    for first in range(0, len(token_ids), size):
        part = token_ids[first : first + size]
        chunk = TokenChunk(part, first, executor.cache.lone_pages(first, len(part)), len(part))
        yield executor.step(
            ragged_batch([chunk], functools.partial(_greedy_with_targets, targets[first : first + size]))
        )


def score_windows(
    executor: Executor, token_ids: Sequence[int], window: int
) -> Iterator[tuple[Candidates, int]]:
    """As `score`, of a text of any length, and how many rows of each step, the first ones, have a token after them.

    A text longer than `window`, the context, is taken in windows that begin anew, each with the last token of the one
    before it (which is predicted there). `executor.whole_logits()` has those of the step that came last.
    """
    for first in range(0, len(token_ids) - 1, window - 1):
        part = token_ids[first : first + window]
        n_left = len(part) - 1  # nothing follows the last one
        for candidates in score(executor, part):
            n_following = min(len(candidates.ids), n_left)
            n_left -= n_following
            if n_following:
                yield candidates, n_following


def _greedy_with_targets(targets: NDArray[np.int32], rows: NDArray[np.int32]) -> LogitRows:
    return dataclasses.replace(LogitRows.greedy(rows), targets=targets)
