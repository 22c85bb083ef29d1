"""An Executor without a model: it remembers what it was asked to compute, and answers by a rule."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from dllama.checkpoint import open_checkpoint
from dllama.dtypes import ElementType
from dllama.model import CacheShape, Candidates, ModelConfig, PageGroup, StepBatch
from dllama.model.candidates import edit_logits
from support.candidates import candidates_of
from support.local_cluster import GOLDENS

NextToken = Callable[[list[int]], int | NDArray[np.float32]]
"""The token that follows a text, or the logits [V] of all."""


class FakeExecutor:
    """Keeps token ids where keys and values would be, so that `next_token` sees what the pages hold.

    `steps` are the batches so far. A row whose earlier positions were never written, or overwritten by another
    text, shows as a wrong text. With `windows` there is a page group for each, of `n_window_pages`; a window that does
    not hold the end of what the first group holds is an error. None is all positions.
    """

    def __init__(
        self,
        next_token: NextToken,
        *,
        vocab_size: int = 256,
        n_pages: int = 8,
        page_size: int = 4,
        max_rows: int = 8,
        max_logit_rows: int = 4,
        windows: Sequence[int | None] = (None,),
        n_window_pages: int = 8,
    ) -> None:
        self._next_token = next_token
        self.config: ModelConfig = dataclasses.replace(
            open_checkpoint(GOLDENS / "llama-gqa").config, vocab_size=vocab_size
        )
        self._logits = np.empty((0, vocab_size), np.float32)
        groups = tuple(
            PageGroup(window=window, n_pages=n_window_pages if window else n_pages) for window in windows
        )
        self._slots = [np.full((group.n_pages, page_size), -1, np.int32) for group in groups]
        self.cache = CacheShape(groups=groups, page_size=page_size, dtype=ElementType.F16)
        self.max_rows = max_rows
        self.max_logit_rows = max_logit_rows
        self.steps: list[StepBatch] = []

    @property
    def n_computed(self) -> int:
        return sum(step.n_rows for step in self.steps)

    def check(self) -> None:
        """No node of it is ever lost."""

    def step(self, batch: StepBatch) -> Candidates:
        assert 0 < batch.n_rows <= self.max_rows
        assert len(batch.wanted.rows) <= self.max_logit_rows
        self.steps.append(batch)
        self._store(batch)
        self._logits = np.zeros((len(batch.wanted.rows), self.config.vocab_size), np.float32)
        for index, row in enumerate(batch.wanted.rows):
            text, *others = (self._seen(batch, int(row), group) for group in range(len(self._slots)))
            for other, group in zip(others, self.cache.groups[1:], strict=True):
                assert other.tolist() == text[-(group.window or 0) :].tolist()
            answer = self._next_token(text.tolist())
            if isinstance(answer, np.ndarray):
                self._logits[index] = answer
            else:
                self._logits[index, answer] = 50.0
        edit_logits(self._logits, batch.wanted, 0)
        return candidates_of(self._logits, batch.wanted)

    def _store(self, batch: StepBatch) -> None:
        size, (_, starts) = self.cache.page_size, batch.runs()
        for slots, table, group in zip(self._slots, batch.page_tables, self.cache.groups, strict=True):
            first = group.first_pages(starts, size)[batch.sequence]
            pages = table[batch.sequence, batch.positions // size - first]
            slots[pages, batch.positions % size] = batch.token_ids

    def _seen(self, batch: StepBatch, row: int, group: int) -> NDArray[np.int32]:
        """The tokens that a row attends to in the layers of a group."""
        sequence, stop, of = batch.sequence[row], int(batch.positions[row]) + 1, self.cache.groups[group]
        _, starts = batch.runs()
        first = of.first_page(int(starts[sequence]), self.cache.page_size) * self.cache.page_size
        held = self._slots[group][batch.page_tables[group][sequence]].reshape(-1)[: stop - first]
        return held if of.window is None else held[-of.window :]

    def whole_logits(self) -> NDArray[np.float32]:
        return self._logits

    def hidden(self) -> NDArray[np.float32]:
        """Like its tokens, one for each row of the last step."""
        token_ids = self.steps[-1].token_ids.astype(np.float32)
        return np.repeat(token_ids[:, np.newaxis], self.config.dim, axis=1)
