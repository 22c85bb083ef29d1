"""What is wanted of a step's logits, and what comes back: candidates in place of whole vocabularies.

N rows whose logits are wanted, C candidates of each, V vocabulary.
"""

from __future__ import annotations

import dataclasses
from typing import Self

import numpy as np
from numpy.typing import NDArray

MOST_CANDIDATES = 4096
"""The most candidates of a row. More cost as much as whole logits."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class LogitEdits:
    """Penalties and biases, one entry for each changed logit, in any order within a row.

    A logit becomes (logit / scale if it is positive, else logit * scale) + add.

    index  [K] int32, which of the N rows, ascending
    ids    [K] int32, token ids, each at most once for a row
    scale  [K] float32, 1 for none
    add    [K] float32
    """

    index: NDArray[np.int32]
    ids: NDArray[np.int32]
    scale: NDArray[np.float32]
    add: NDArray[np.float32]


@dataclasses.dataclass(frozen=True, kw_only=True)
class LogitMasks:
    """Tokens that a grammar allows; all others become minus infinity, after the edits.

    index    [M] int32, which of the N rows, ascending; rows that are not named allow everything
    allowed  [M, ceil(V / 8)] uint8, bit v % 8 (least significant first) of byte v // 8 belongs to token v
    """

    index: NDArray[np.int32]
    allowed: NDArray[np.uint8]


@dataclasses.dataclass(frozen=True, kw_only=True)
class LogitRows:
    """The rows of a step whose logits are wanted, and what every node does with its part of them.

    rows          [N] int32, ascending
    n_candidates  how many of the largest logits of each row come back, MOST_CANDIDATES at the most
    temperature   [N] float32, at which the second log-sum-exp is taken; 0 for greedy rows: none is taken
    targets       [N] int32, a token whose logit comes back however small it is; -1 for none
    """

    rows: NDArray[np.int32]
    n_candidates: int
    temperature: NDArray[np.float32]
    targets: NDArray[np.int32]
    edits: LogitEdits | None = None
    masks: LogitMasks | None = None

    @classmethod
    def greedy(cls, rows: NDArray[np.int32], n_candidates: int = 1) -> Self:
        """For each of `rows` [N] nothing but the largest logits and the log-sum-exp of all."""
        return cls(
            rows=rows,
            n_candidates=n_candidates,
            temperature=np.zeros(len(rows), np.float32),
            targets=np.full(len(rows), -1, np.int32),
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Candidates:
    """The answer to LogitRows, with C = min(n_candidates, V); all logits are those after edits and masks.

    ids                [N, C] int32, by falling logit; of equal logits the lower id comes first
    logits             [N, C] float32
    log_sum_exp        [N] float64, over the whole vocabulary; NaN when a logit is NaN or infinite
    log_sum_exp_at_t   [N] float64, of logits / temperature; NaN for rows of temperature 0
    target_logits      [N] float32; NaN where there is no target
    """

    ids: NDArray[np.int32]
    logits: NDArray[np.float32]
    log_sum_exp: NDArray[np.float64]
    log_sum_exp_at_t: NDArray[np.float64]
    target_logits: NDArray[np.float32]
