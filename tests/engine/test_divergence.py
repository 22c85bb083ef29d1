"""How far logits are from those of a reference, and the file in which the reference's wait."""

from __future__ import annotations

import errno
import io
import shutil
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dllama.engine import Divergence, StoredLogits, score_windows, stored_logits
from dllama.errors import NotEnoughDiskError, NumericalError
from support.engine_talks import VOCAB, checksum
from support.fake_executor import FakeExecutor


def _logits(seed: int, n_rows: int, scale: float = 3.0) -> np.ndarray[Any, np.dtype[np.float32]]:
    rng = np.random.default_rng(seed)
    return (rng.standard_normal((n_rows, 50)) * scale).astype(np.float32)


def test_divergence_is_that_of_the_definition() -> None:
    reference, logits = _logits(1, 40), _logits(2, 40)
    divergence = Divergence()
    divergence.add(reference[:7], logits[:7])
    divergence.add(reference[7:], logits[7:])
    values = []
    for ours, theirs in zip(np.exp(reference.astype(float)), np.exp(logits.astype(float)), strict=True):
        p, q = ours / ours.sum(), theirs / theirs.sum()
        values.append((p * np.log(p / q)).sum())
    report = divergence.report()
    assert report.n_positions == 40
    assert report.mean == pytest.approx(np.mean(values))
    assert report.median == pytest.approx(np.median(values))
    assert report.percentile_99 == pytest.approx(np.percentile(values, 99))
    assert report.same_first == np.mean(reference.argmax(axis=1) == logits.argmax(axis=1))


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 1000), scale=st.floats(0, 60), shift=st.floats(-100, 100))
def test_a_model_does_not_diverge_from_itself(seed: int, scale: float, shift: float) -> None:
    """Nor from itself with all logits moved by the same, but for their rounding; and never below nothing."""
    logits = _logits(seed, 5, scale)
    moved = logits + np.float32(shift)
    divergence, of_moved = Divergence(), Divergence()
    divergence.add(logits, logits)
    of_moved.add(logits, moved)
    assert divergence.report().mean == 0
    assert divergence.report().same_first == 1
    # A logit moves by half an ulp of the largest magnitude, and log p - log q by twice that at the most.
    ulp = float(np.spacing(np.float32(np.abs(moved).max() + np.abs(logits).max() + abs(shift))))
    assert 0 <= of_moved.report().mean <= 2 * ulp


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("which", [0, 1])
def test_what_is_no_number_is_refused(bad: float, which: int) -> None:
    pair = [_logits(1, 3), _logits(2, 3)]
    pair[which][1, 4] = bad
    with pytest.raises(NumericalError), np.errstate(invalid="ignore"):
        Divergence().add(*pair)


def test_stored_logits_come_back() -> None:
    logits = _logits(3, 9)
    with stored_logits(9, 50) as store:
        store.append(logits[:4])
        store.append(logits[4:])
        store.rewind()
        np.testing.assert_array_equal(store.read(2), logits[:2])
        np.testing.assert_array_equal(store.read(7), logits[2:])


def test_a_disk_without_room_is_said_before_anything_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(0, 0, 199))
    with pytest.raises(NotEnoughDiskError), stored_logits(1, 50):
        pass


class _FullFile(io.BytesIO):
    def write(self, content: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_disk_that_fills_up_is_one_line() -> None:
    with pytest.raises(NotEnoughDiskError, match="disk of the temporary directory is full"):
        StoredLogits(_FullFile(), 50).append(_logits(1, 1))


@pytest.mark.parametrize("window", [2, 5, 7, 20, 21, 40])
def test_windows_predict_every_token_but_the_first_once(window: int) -> None:
    """Each row's target is the token after it, in its window."""
    executor = FakeExecutor(checksum, vocab_size=VOCAB, n_pages=16)
    ids = [(7 * i) % 97 for i in range(21)]
    n_predicted = 0
    for candidates, n_following in score_windows(executor, ids, window):
        assert len(candidates.target_logits) >= n_following > 0
        assert len(executor.whole_logits()) >= n_following
        logits = executor.whole_logits()[np.arange(n_following), ids[n_predicted + 1 :][:n_following]]
        np.testing.assert_array_equal(candidates.target_logits[:n_following], logits)
        n_predicted += n_following
    assert n_predicted == len(ids) - 1
