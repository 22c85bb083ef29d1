"""From the logits of a vocabulary's spans, one on each rank, to candidates of the whole.

N rows whose logits are wanted, V vocabulary, C candidates of each row; `_local` is one rank's part.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from dllama.kernels import Compute
from dllama.model.logits import Candidates, LogitEdits, LogitMasks, LogitRows


@dataclasses.dataclass(frozen=True, kw_only=True)
class RankCandidates:
    """What one rank says of its logits, those after edits and masks; C_local = min(n_candidates, V_local).

    ids            [N, C_local] int32, by falling logit; of equal logits the lower id comes first
    logits         [N, C_local] float32; all NaN where a logit of the span is NaN or plus infinity
    sum_exp        [N] float64, of exp(logit - largest); NaN where logits[:, 0] is, 0 where nothing is allowed
    sum_exp_at_t   [N] float64, of exp((logit - largest) / temperature), likewise; NaN for rows of temperature 0
    target_logits  [N] float32; NaN where there is no target, or another rank has it
    """

    ids: NDArray[np.int32]
    logits: NDArray[np.float32]
    sum_exp: NDArray[np.float64]
    sum_exp_at_t: NDArray[np.float64]
    target_logits: NDArray[np.float32]


def edit_logits(logits: NDArray[np.float32], wanted: LogitRows, first_id: int) -> None:
    """Applies edits, then masks, to `logits` [N, V_local] of the tokens from `first_id` on, in place."""
    if wanted.edits is not None:
        _apply_edits(logits, wanted.edits, first_id)
    if wanted.masks is not None:
        _apply_masks(logits, wanted.masks, first_id)


def select_candidates(
    compute: Compute, logits: NDArray[np.float32], wanted: LogitRows, first_id: int
) -> RankCandidates:
    """The candidates among `logits` [N, V_local], those after edits and masks, of the tokens from `first_id` on."""
    n_rows, n_local = logits.shape
    n = min(wanted.n_candidates, n_local)
    ids, largest = np.empty((n_rows, n), np.int32), np.empty((n_rows, n), np.float32)
    sums = np.empty((2, n_rows), np.float64)
    if n_rows:
        compute.top_candidates(ids, largest, sums, logits, wanted.temperature, first_id, n_rows)
    return RankCandidates(
        ids=ids,
        logits=largest,
        sum_exp=sums[0],
        sum_exp_at_t=sums[1],
        target_logits=_targets(logits, wanted.targets - first_id),
    )


def merge_candidates(parts: Sequence[RankCandidates], wanted: LogitRows) -> Candidates:
    """The candidates of the whole vocabulary; `parts` are those of all ranks, in the order of their spans.

    Sums are scaled to the largest logit of all and added in rank order, in float64: the same split gives the
    same bits.
    """
    largest = np.stack([part.logits[:, 0] for part in parts]).astype(np.float64)
    log_sum_exp_at_t = np.full(len(wanted.rows), np.nan)
    if wanted.temperature.any():
        temperature = np.where(wanted.temperature > 0, wanted.temperature, np.nan).astype(np.float64)
        sums_at_t = np.stack([part.sum_exp_at_t for part in parts])
        log_sum_exp_at_t = _log_sum_exp(largest / temperature, sums_at_t)
    ids, logits, target_logits = parts[0].ids, parts[0].logits, parts[0].target_logits
    if len(parts) > 1:
        ids = np.concatenate([part.ids for part in parts], axis=1)
        logits = np.concatenate([part.logits for part in parts], axis=1)
        # The sort is stable and spans ascend, so of equal logits the lower id stays first.
        order = np.argsort(-logits, axis=1, kind="stable")[:, : wanted.n_candidates]
        ids, logits = np.take_along_axis(ids, order, axis=1), np.take_along_axis(logits, order, axis=1)
        # fmax passes NaN over: one rank at most has the target.
        target_logits = np.fmax.reduce([part.target_logits for part in parts], axis=0)
    return Candidates(
        ids=ids,
        logits=logits,
        log_sum_exp=_log_sum_exp(largest, np.stack([part.sum_exp for part in parts])),
        log_sum_exp_at_t=log_sum_exp_at_t,
        target_logits=target_logits,
    )


def _apply_edits(logits: NDArray[np.float32], edits: LogitEdits, first_id: int) -> None:
    here = (edits.ids >= first_id) & (edits.ids < first_id + logits.shape[1])
    places = edits.index[here], edits.ids[here] - first_id
    old, scale = logits[places], edits.scale[here]
    logits[places] = np.where(old > 0, old / scale, old * scale) + edits.add[here]


def _apply_masks(logits: NDArray[np.float32], masks: LogitMasks, first_id: int) -> None:
    first_byte, last_byte = first_id // 8, -(-(first_id + logits.shape[1]) // 8)
    for index, allowed in zip(masks.index, masks.allowed, strict=True):
        bits = np.unpackbits(allowed[first_byte:last_byte], bitorder="little")
        forbidden = bits[first_id - 8 * first_byte :][: logits.shape[1]] == 0
        logits[index, forbidden] = -np.inf


def _targets(logits: NDArray[np.float32], places: NDArray[np.int32]) -> NDArray[np.float32]:
    """[N]: logits [N, V_local] at `places` [N], NaN for those that are no place here."""
    here = (places >= 0) & (places < logits.shape[1])
    if not here.any():
        return np.full(len(places), np.nan, np.float32)
    chosen = logits[np.arange(len(places)), np.where(here, places, 0)]
    return np.where(here, chosen, np.float32(np.nan))


def _log_sum_exp(largest: NDArray[np.float64], sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """[N]: log of the sum over ranks of sums x exp(largest), both [n_ranks, N]; NaN where one of them is NaN."""
    of_all = largest.max(axis=0)
    total = np.zeros(largest.shape[1])
    with np.errstate(invalid="ignore", divide="ignore"):
        for one, part in zip(largest, sums, strict=True):
            total += np.where(part == 0, 0.0, part * np.exp(one - of_all))
        return np.asarray(np.log(total) + of_all)
