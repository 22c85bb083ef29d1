"""From candidates to a token: greedy, or temperature, top-k, top-p and min-p, in this order."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from dllama.errors import NumericalError, UsageError
from dllama.model import MOST_CANDIDATES, Candidates

_N_CANDIDATES = 256
"""Where no top-k says how many are needed: a nucleus rarely reaches further."""

_LEAST_TEMPERATURE = 1e-6
"""Colder than this draws the same: neighbouring float32 logits differ by more than what decides then."""

_LARGEST_EDIT = 1e9
"""The largest penalty or bias: far beyond all logits, and exact enough in float32."""

_ALL = -1
"""Nothing is left out of the draw."""


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
            raise UsageError(
                f"temperature takes a number from 0 up, not {self.temperature}", settings=("temperature",)
            )
        if not 0 <= self.topp <= 1:
            raise UsageError(f"topp takes a number from 0 to 1, not {self.topp}", settings=("topp",))
        if self.topk < 0:
            raise UsageError(f"topk takes a number from 0 up, not {self.topk}", settings=("topk",))
        if self.seed is not None and self.seed < 0:
            raise UsageError(f"seed takes a number from 0 up, not {self.seed}", settings=("seed",))

    def _check_edits(self) -> None:
        if not 0 <= self.min_p <= 1:
            raise UsageError(f"min_p takes a number from 0 to 1, not {self.min_p}")
        if not 1 / _LARGEST_EDIT <= self.repetition_penalty <= _LARGEST_EDIT:
            raise UsageError(f"repetition_penalty takes a number above 0, not {self.repetition_penalty}")
        for name in ("presence_penalty", "frequency_penalty"):
            if not abs(getattr(self, name)) <= _LARGEST_EDIT:
                raise UsageError(f"{name} takes a finite number, not {getattr(self, name)}")
        for token_id, bias in self.logit_bias.items():
            if not abs(bias) <= _LARGEST_EDIT:
                raise UsageError(f"logit_bias of token {token_id} is {bias}, not a finite number")


class _Randoms:
    """A fixed sequence of numbers for each seed (PCG64), asked in any order; without a seed a new one each time."""

    def __init__(self, seed: int | None) -> None:
        self._bits = np.random.PCG64(seed)
        self._generator = np.random.Generator(self._bits)
        self._next = 0

    def number(self, index: int) -> float:
        """Number `index` of the sequence, from [0, 1)."""
        if index != self._next:
            self._bits.advance(index - self._next)
        self._next = index + 1
        return float(self._generator.random())


class Sampler:
    """Draws tokens; the same options and seed draw the same token from the same logits at the same place of a text."""

    def __init__(self, options: SamplingOptions) -> None:
        self._options = options
        self._randoms = _Randoms(options.seed)
        coldest = np.float32(max(options.temperature, _LEAST_TEMPERATURE))
        self.temperature = float(coldest) if options.temperature else 0.0

    @property
    def n_candidates(self) -> int:
        """What LogitRows has to ask for, beside `temperature`, so that whole logits are rarely needed."""
        if self.temperature == 0:
            return 1
        return min(self._options.topk or _N_CANDIDATES, MOST_CANDIDATES)

    def sample(
        self, index: int, candidates: Candidates, row: int, whole_logits: Callable[[], NDArray[np.float32]]
    ) -> int:
        """Token number `index` of the text, drawn from `row` of the candidates, however many of them there are.

        The draw walks down from the largest logit; of equal logits the lower id comes first. Where it passes
        the last candidate it goes on in `whole_logits()` [N, V], which is called only then. Raises
        NumericalError when the logits are not numbers, or forbid every token.
        """
        if not math.isfinite(candidates.log_sum_exp[row]):
            raise NumericalError(
                "the logits hold NaN or infinity: the model's weights are damaged, get its files again"
            )
        ids, logits = candidates.ids[row], candidates.logits[row]
        if self.temperature == 0:
            return int(ids[0])
        mass = math.exp(candidates.log_sum_exp_at_t[row] - float(logits[0]) / self.temperature)
        drawn = self._randoms.number(index)
        place = self._walk(logits, mass, drawn, is_whole=False)
        if place is None:
            logits = whole_logits()[row]
            ids = np.argsort(-logits, kind="stable").astype(np.int32)
            place = self._walk(logits[ids], mass, drawn, is_whole=True)
            assert place is not None, "the walk ends within the vocabulary"
        return int(ids[place])

    def _walk(self, logits: NDArray[np.float32], mass: float, drawn: float, *, is_whole: bool) -> int | None:
        """Where the draw from [0, 1) ends among falling `logits` [C]; None when that takes more of them.

        Weights are exp((logit - largest) / temperature), and `mass` the sum of all, of the whole vocabulary.
        """
        weights = np.exp((logits.astype(np.float64) - float(logits[0])) / self.temperature)
        sums = np.cumsum(weights)
        n_kept = self._n_kept(weights, sums, mass, is_whole)
        if n_kept is None:
            return None
        is_all = n_kept == _ALL
        kept = sums if is_all else sums[:n_kept]
        place = int(np.searchsorted(kept, drawn * (mass if is_all else kept[-1]), side="right"))
        if is_all and not is_whole and place == len(kept):
            return None
        # Rounding may lead past the end: the last token is then the last one that weighs anything.
        return min(place, int(np.searchsorted(kept, kept[-1])))

    def _n_kept(
        self, weights: NDArray[np.float64], sums: NDArray[np.float64], mass: float, is_whole: bool
    ) -> int | None:
        """How many tokens stay in the draw: _ALL of the vocabulary, or these first ones; None when the limit lies
        beyond `weights` [C], whose running sums are `sums`."""
        topk, topp, min_p = self._options.topk, self._options.topp, self._options.min_p
        if not topk and topp in (0, 1) and not min_p:
            return _ALL
        n = len(weights)
        if topk > n and not is_whole:
            return None
        is_known, n_kept = is_whole or topk > 0, min(topk or n, n)
        if 0 < topp < 1:
            n_nucleus = int(np.searchsorted(sums, topp * (sums[n_kept - 1] if topk else mass))) + 1
            is_known, n_kept = is_known or n_nucleus <= n, min(n_kept, n_nucleus)
        n_likely = int(np.count_nonzero(weights >= min_p)) if min_p else n
        is_known, n_kept = is_known or n_likely < n, min(n_kept, n_likely)
        return n_kept if is_known else None
