"""A grammar that takes its time."""

from __future__ import annotations

from concurrent.futures import Future

import numpy as np

from dllama.engine import Following


class SlowGrammar:
    """A grammar that says what may come next, always the token 400, when the test lets it."""

    def __init__(self, vocab_size: int, n_tokens: int) -> None:
        self._n_left = n_tokens
        self._allowed = np.packbits(np.arange(vocab_size) == 400, bitorder="little")
        self.asked: list[Future[Following]] = []

    def start(self) -> Future[Following]:
        return self._ask()

    def advance(self, token_id: int) -> Future[Following]:
        assert token_id == 400
        assert self.asked[-1].done()
        self._n_left -= 1
        return self._ask()

    def answer(self) -> None:
        self.asked[-1].set_result(Following(self._allowed, is_end=not self._n_left))

    def _ask(self) -> Future[Following]:
        self.asked.append(Future())
        return self.asked[-1]
