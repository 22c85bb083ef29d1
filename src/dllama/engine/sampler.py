"""From logits to a token: greedy, or temperature, top-k and top-p, in this order."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from dllama.errors import NumericalError, UsageError

_N_CANDIDATES = 256
"""Largest logits looked at first: a nucleus rarely reaches further, and sorting all of V costs milliseconds."""

_LEAST_TEMPERATURE = 1e-30
"""Still a float32; far below where anything but the largest logit is drawn."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class SamplingOptions:
    """temperature 0 is greedy; topk 0, topp 0 or 1 and min_p 0 mean no limit.

    min_p               tokens of less than this part of the largest probability are not drawn
    repetition_penalty  divides positive and multiplies negative logits of tokens of prompt and text; 1 for none
    presence_penalty    is taken from the logits of tokens that the text has
    frequency_penalty   is taken from them as often as the text has them
    logit_bias          is added to the logits of these tokens
    """

    temperature: float = 0.8
    topp: float = 0.9
    topk: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] = dataclasses.field(default_factory=dict)
    seed: int | None = None

    def __post_init__(self) -> None:
        self._check_edits()
        if not 0 <= self.temperature < float("inf"):
            raise UsageError(f"--temperature takes a number from 0 up, not {self.temperature}")
        if not 0 <= self.topp <= 1:
            raise UsageError(f"--topp takes a number from 0 to 1, not {self.topp}")
        if self.topk < 0:
            raise UsageError(f"--topk takes a number from 0 up, not {self.topk}")
        if self.seed is not None and self.seed < 0:
            raise UsageError(f"--seed takes a number from 0 up, not {self.seed}")

    def _check_edits(self) -> None:
        if not 0 <= self.min_p <= 1:
            raise UsageError(f"min_p takes a number from 0 to 1, not {self.min_p}")
        if not 0 < self.repetition_penalty < math.inf:
            raise UsageError(f"repetition_penalty takes a number above 0, not {self.repetition_penalty}")
        for name in ("presence_penalty", "frequency_penalty"):
            if not math.isfinite(getattr(self, name)):
                raise UsageError(f"{name} takes a finite number, not {getattr(self, name)}")
        for token_id, bias in self.logit_bias.items():
            if not math.isfinite(bias):
                raise UsageError(f"logit_bias of token {token_id} is {bias}, not a finite number")


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
