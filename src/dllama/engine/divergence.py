"""How far a model's predictions are from a reference model's, on the same text.

N rows (positions), V vocabulary. Logits of the reference wait in a temporary file, so that the two models need not be
in memory at the same time, and no more than the rows of one step are.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from dllama.errors import NotEnoughDiskError, NumericalError
from dllama.formats.atomic import require_free_space

_ROWS_AT_ONCE = 16
"""Rows whose probabilities are computed together: 16 x 128k of them in float64 take 17 MB."""


class StoredLogits:
    """Rows of logits in a file: written in order, then read in the same order."""

    def __init__(self, file: BinaryIO, vocab_size: int) -> None:
        self._file, self._vocab_size = file, vocab_size

    def append(self, logits: NDArray[np.float32]) -> None:
        """Adds [N, V]. Raises NotEnoughDiskError when the disk is full."""
        try:
            self._file.write(np.ascontiguousarray(logits, np.float32).data)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise NotEnoughDiskError(
                    "the disk of the temporary directory is full, and the reference's logits do not fit on it: free"
                    " some, or take a shorter text"
                ) from error
            raise

    def rewind(self) -> None:
        """Reading begins anew."""
        self._file.seek(0)

    def read(self, n_rows: int) -> NDArray[np.float32]:
        """The next [N, V]."""
        size = n_rows * self._vocab_size * 4
        content = self._file.read(size)
        assert len(content) == size, "there are no more rows"
        return np.frombuffer(content, np.float32).reshape(n_rows, self._vocab_size)


@contextlib.contextmanager
def stored_logits(n_rows: int, vocab_size: int) -> Iterator[StoredLogits]:
    """A file in the system's temporary directory that is gone at the end.

    Raises NotEnoughDiskError when its disk has no room for `n_rows`.
    """
    directory = Path(tempfile.gettempdir())
    require_free_space(directory / "logits", n_rows * vocab_size * 4)
    with tempfile.TemporaryFile(dir=directory) as file:
        yield StoredLogits(file, vocab_size)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DivergenceReport:
    """KL divergences in nats: the mean over the positions, their median and their 99th percentile; the part of the
    positions in which both models find the same token the most likely."""

    n_positions: int
    mean: float
    median: float
    percentile_99: float
    same_first: float


class Divergence:
    """Gathers, position by position, the Kullback-Leibler divergence of a model's next-token probabilities q from those
    of a reference p: the sum over the vocabulary of p ln(p / q)."""

    def __init__(self) -> None:
        self._divergences: list[NDArray[np.float64]] = []
        self._n_same = 0

    def add(self, reference: NDArray[np.float32], logits: NDArray[np.float32]) -> None:
        """The next positions, logits [N, V] of both. Raises NumericalError where they are no finite numbers."""
        assert reference.shape == logits.shape
        for first in range(0, len(logits), _ROWS_AT_ONCE):
            rows = slice(first, first + _ROWS_AT_ONCE)
            divergences = _divergences(reference[rows], logits[rows])
            if not np.isfinite(divergences).all():
                raise NumericalError(
                    "the logits hold NaN or infinity: the model's weights are damaged, get its files again"
                )
            self._divergences.append(divergences)
        self._n_same += int((reference.argmax(axis=1) == logits.argmax(axis=1)).sum())

    def report(self) -> DivergenceReport:
        """Of all positions so far, one at least."""
        values = np.concatenate(self._divergences)
        return DivergenceReport(
            n_positions=len(values),
            mean=float(values.mean()),
            median=float(np.median(values)),
            percentile_99=float(np.percentile(values, 99)),
            same_first=self._n_same / len(values),
        )


def _divergences(reference: NDArray[np.float32], logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """[N], never below 0, which rounding would allow where the two hardly differ."""
    log_p, log_q = _log_probabilities(reference), _log_probabilities(logits)
    divergences: NDArray[np.float64] = np.einsum("nv,nv->n", np.exp(log_p), log_p - log_q)
    return np.maximum(divergences, 0.0)


def _log_probabilities(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    normed: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return normed
