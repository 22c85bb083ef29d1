"""From logits to a token: greedy, or temperature, top-k and top-p, in this order."""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from dllama.errors import NumericalError, UsageError

_N_CANDIDATES = 256
"""Largest logits looked at first: a nucleus rarely reaches further, and sorting all of V costs milliseconds."""

_LEAST_TEMPERATURE = 1e-30
"""Still a float32; far below where anything but the largest logit is drawn."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class SamplingOptions:
    """temperature 0 is greedy; topk 0 and topp 0 or 1 mean no limit."""

    temperature: float = 0.8
    topp: float = 0.9
    topk: int = 0
    seed: int | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < float("inf"):
            raise UsageError(f"--temperature takes a number from 0 up, not {self.temperature}")
        if not 0 <= self.topp <= 1:
            raise UsageError(f"--topp takes a number from 0 to 1, not {self.topp}")
        if self.topk < 0:
            raise UsageError(f"--topk takes a number from 0 up, not {self.topk}")
        if self.seed is not None and self.seed < 0:
            raise UsageError(f"--seed takes a number from 0 up, not {self.seed}")


class Sampler:
    """Draws tokens; the same options and seed draw the same tokens from the same logits."""

    def __init__(self, options: SamplingOptions) -> None:
        self._options = options
        self._random = np.random.default_rng(options.seed)

    def sample(self, logits: NDArray[np.float32]) -> int:
        """A token id for `logits` [V] float32. Raises NumericalError when they are not numbers."""
        best = int(np.argmax(logits))
        if not np.isfinite(logits[best]):
            raise NumericalError(
                "the logits hold NaN or infinity: the model's weights are damaged, get its files again"
            )
        if self._options.temperature == 0:
            return best
        temperature = np.float32(max(self._options.temperature, _LEAST_TEMPERATURE))
        with np.errstate(over="ignore"):  # to minus infinity: never drawn
            weights = np.exp((logits - logits[best]) / temperature).astype(np.float64)
        ids = self._nucleus(weights)
        cumulative = np.cumsum(weights[ids])
        drawn = np.searchsorted(cumulative, self._random.random() * cumulative[-1], side="right")
        return int(ids[min(int(drawn), len(ids) - 1)])

    def _nucleus(self, weights: NDArray[np.float64]) -> NDArray[np.intp]:
        """Ids that stay in the draw, most likely first. `weights` [V] are the unnormalised probabilities."""
        topk = self._options.topk or len(weights)
        topp = self._options.topp if 0 < self._options.topp < 1 else 1.0
        if topp == 1.0 and topk >= len(weights):
            return np.arange(len(weights))
        n = min(topk if topk < len(weights) else _N_CANDIDATES, len(weights))
        while True:
            ids = np.argpartition(weights, len(weights) - n)[-n:]
            ids = ids[np.argsort(-weights[ids], kind="stable")]
            total = weights.sum() if topk >= len(weights) else weights[ids].sum()
            reached = int(np.searchsorted(np.cumsum(weights[ids]), topp * total)) + 1
            if reached <= n or n == min(topk, len(weights)):
                return np.asarray(ids[:reached])
            n = min(8 * n, len(weights))
