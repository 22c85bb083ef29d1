"""From the logits of a vocabulary's spans, one on each rank, to candidates of the whole.

N rows whose logits are wanted, V vocabulary, C candidates of each row; `_local` is one rank's part.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from dllama import kernels
from dllama.kernels import Buffer, Device
from dllama.model.logits import Candidates, LogitEdits, LogitMasks, LogitRows


@dataclasses.dataclass(frozen=True, kw_only=True)
class RankCandidates:
    """What one rank says of its logits, those after edits and masks; C_local = min(n_candidates, V_local).

    ids            [N, C_local] int32, by falling logit; of equal logits the lower id comes first
    logits         [N, C_local] float32; all NaN where a logit of the span is NaN or plus infinity
    sums           [2, N] float64, of exp(logit - largest) and of exp((logit - largest) / temperature); NaN where
                   logits[:, 0] is, 0 where nothing is allowed; the second NaN for rows of temperature 0
    target_logits  [N] float32; NaN where there is no target, or another rank has it
    """

    ids: NDArray[np.int32]
    logits: NDArray[np.float32]
    sums: NDArray[np.float64]
    target_logits: NDArray[np.float32]


def edit_logits(logits: NDArray[np.float32], wanted: LogitRows, first_id: int) -> None:
    """Applies edits, then masks, to `logits` [N, V_local] of the tokens from `first_id` on, in place."""
    if wanted.edits is not None:
        _apply_edits(logits, wanted.edits, first_id)
    if wanted.masks is not None:
        _apply_masks(logits, wanted.masks, first_id)


def select_candidates(device: Device, logits: Buffer, wanted: LogitRows, first_id: int) -> RankCandidates:
    """The candidates among the first N rows of `logits` [at least N, V_local], those after edits and masks, of the
    tokens from `first_id` on."""
    n_rows, n = len(wanted.rows), min(wanted.n_candidates, logits.shape[1])
    ids, largest = np.empty((n_rows, n), np.int32), np.empty((n_rows, n), np.float32)
    sums = np.empty((2, n_rows), np.float64)
    if n_rows:
        device.top_candidates(ids, largest, sums, logits, wanted.temperature, first_id, n_rows)
    targets = _targets(device, logits, wanted.targets - first_id)
    return RankCandidates(ids=ids, logits=largest, sums=sums, target_logits=targets)


def merge_candidates(parts: Sequence[RankCandidates], wanted: LogitRows) -> Candidates:
    """The candidates of the whole vocabulary; `parts` are those of all ranks, in the order of their spans.

    Sums are scaled to the largest logit of all and added in rank order, in float64: the same split gives the
    same bits.
    """
    n_rows, n_local = len(wanted.temperature), sum(part.ids.shape[1] for part in parts)
    n = min(wanted.n_candidates, n_local)
    ids, logits = np.empty((n_rows, n), np.int32), np.empty((n_rows, n), np.float32)
    log_sums, target_logits = np.empty((2, n_rows), np.float64), np.empty(n_rows, np.float32)
    arrays = [(part.ids, part.logits, part.sums, part.target_logits) for part in parts]
    kernels.merge_candidates(ids, logits, log_sums, target_logits, arrays, wanted.temperature)
    return Candidates(
        ids=ids,
        logits=logits,
        log_sum_exp=log_sums[0],
        log_sum_exp_at_t=log_sums[1],
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


def _targets(device: Device, logits: Buffer, places: NDArray[np.int32]) -> NDArray[np.float32]:
    """[N]: logits [N, V_local] at `places` [N], NaN for those that are no place here."""
    targets = np.full(len(places), np.nan, np.float32)
    (here,) = np.nonzero(places.view(np.uint32) < logits.shape[1])  # negative ones are large without a sign
    if len(here):
        view = device.view(logits)
        view.pull(slice(0, len(places)))
        targets[here] = view.array[here, places[here]]
    return targets
