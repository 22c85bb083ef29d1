"""How likely a model finds the tokens of a prompt, as a request among others."""

from __future__ import annotations

import math
from collections.abc import Sequence

from dllama.engine.request import TokenInfo
from dllama.errors import NumericalError
from dllama.model import Candidates
from dllama.tokenizer import Tokenizer


class PromptScore:
    """For each token but the first, its log-probability after those before it, and the `n_top` most likely ones."""

    def __init__(self, prompt_ids: Sequence[int], n_top: int, tokenizer: Tokenizer) -> None:
        self._prompt_ids, self._tokenizer = prompt_ids, tokenizer
        self.n_top = n_top
        self.infos: list[TokenInfo] = []

    def targets(self, start: int, n: int) -> Sequence[int]:
        """The tokens that follow the `n` from position `start` on."""
        return self._prompt_ids[start + 1 : start + 1 + n]

    def read(self, candidates: Candidates, row: int, start: int, n: int) -> list[TokenInfo]:
        """The scores of these targets, whose candidates begin at `row`; changes nothing. Raises NumericalError."""
        infos = []
        for index, token_id in enumerate(self.targets(start, n), start=row):
            log_sum = float(candidates.log_sum_exp[index])
            if not math.isfinite(log_sum):
                raise NumericalError("the logits of the prompt hold NaN or infinity")
            ids, logits = candidates.ids[index], candidates.logits[index]
            top = zip(ids[: self.n_top].tolist(), logits[: self.n_top].tolist(), strict=True)
            infos.append(
                TokenInfo(
                    token_id,
                    self._tokenizer.token_bytes(token_id),
                    float(candidates.target_logits[index]) - log_sum,
                    tuple((i, self._tokenizer.token_bytes(i), logit - log_sum) for i, logit in top),
                )
            )
        return infos

    def add(self, start: int, infos: Sequence[TokenInfo]) -> None:
        """Those from position `start` on are read, perhaps again."""
        self.infos[start:] = infos
