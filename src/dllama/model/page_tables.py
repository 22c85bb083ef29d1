"""Page tables where a rank's operations read them."""

from __future__ import annotations

import numpy as np

from dllama.model.batch import StepBatch
from dllama.model.cache_shape import CacheShape, PageGroup


class PageTables:
    """`tables`: for each page group [rows of a step, pages of a sequence] int32, indexed by position // page_size.

    Only what the rows of a step attend to is of that step: all else is whatever earlier steps left there, and no
    operation follows it.
    """

    def __init__(self, cache: CacheShape, n_rows: int, n_positions: int) -> None:
        """For steps of up to so many rows, of sequences of so many positions."""
        self._cache = cache
        self.tables = [
            np.zeros((n_rows, _width(group, cache.page_size, n_rows, n_positions)), np.int32)
            for group in cache.groups
        ]

    def place(self, batch: StepBatch) -> None:
        """Takes over what the step says."""
        for table, pages, group in zip(self.tables, batch.page_tables, self._cache.groups, strict=True):
            n_sequences, n_pages = pages.shape
            if group.window is None:
                table[:n_sequences, :n_pages] = pages
            else:
                _, starts = batch.runs()
                first = group.first_pages(starts, self._cache.page_size)
                places = first[:, None] + np.arange(n_pages)
                table[np.arange(n_sequences)[:, None], places] = pages


def page_table_bytes(cache: CacheShape, n_rows: int, n_positions: int) -> int:
    widths = (_width(group, cache.page_size, n_rows, n_positions) for group in cache.groups)
    return 4 * n_rows * sum(widths)


def _width(group: PageGroup, page_size: int, n_rows: int, n_positions: int) -> int:
    """Of a group with a window a step's entries are as many for each sequence as for that with the most: they may reach
    beyond the end of what a sequence can have."""
    n_pages = -(-n_positions // page_size)
    return n_pages + (0 if group.window is None else group.most_pages(n_positions, n_rows, page_size))
