"""How a KV cache is cut into pages, and which layers share page numbers.

Layers that attend equally far back are a page group: a sequence has a list of pages in each group, whose numbers mean
the same positions on every rank. What a group needs to go on from a page border is the whole pages before it that its
window reaches back to, so of layers with a window no more than these is kept.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from dllama.dtypes import ElementType
from dllama.model.config import ModelConfig

PAGE_SIZE = 64
"""Positions in a page: large enough that a page of one head is a few kB of consecutive reads, small enough that
half a page wasted for each sequence does not matter."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class PageGroup:
    """`window`: how many positions a row of its layers attends to, itself among them; None: all. `n_pages`: of each of
    its layers."""

    window: int | None
    n_pages: int

    def n_back(self, page_size: int) -> int | None:
        """How many pages before a page border have to be there to go on from it; None: all."""
        return None if self.window is None else -(-(self.window - 1) // page_size)

    def first_page(self, position: int, page_size: int) -> int:
        """The first page, counted from a sequence's beginning, that it holds when `position` is the next to compute:
        that which the page border before it reaches back to."""
        n_back = self.n_back(page_size)
        return 0 if n_back is None else max(0, position // page_size - n_back)

    def first_pages(self, positions: NDArray[np.int32], page_size: int) -> NDArray[np.int32]:
        """The same of several sequences."""
        n_back = self.n_back(page_size)
        if n_back is None:
            return np.zeros_like(positions)
        first: NDArray[np.int32] = np.maximum(positions // page_size - n_back, 0)
        return first

    def most_pages(self, n_positions: int, n_rows: int, page_size: int) -> int:
        """The most that a sequence of so many positions holds at once, if `n_rows` of it at the most share a step."""
        n_all = -(-n_positions // page_size)
        if self.window is None:
            return n_all
        return min(n_all, -(-(self.window - 1) // page_size) + 1 + -(-(n_rows - 1) // page_size))


@dataclasses.dataclass(frozen=True, kw_only=True)
class CacheShape:
    """The same on every rank: page numbers mean the same positions everywhere."""

    groups: tuple[PageGroup, ...]
    page_size: int
    dtype: ElementType

    def group_of(self, window: int | None) -> int:
        """The number of the group of layers with that window."""
        return [group.window for group in self.groups].index(window)

    def lone_pages(self, start: int, n_rows: int, part: int = 0, n_parts: int = 1) -> list[list[int]]:
        """Pages of each group for rows from position `start` on of a sequence that has the cache to itself, or one of
        several equal parts of it. Where a window makes a group smaller than the sequence, pages are used in turn."""
        stop, pages = (start + n_rows - 1) // self.page_size + 1, []
        for group in self.groups:
            n, first = group.n_pages // n_parts, group.first_page(start, self.page_size)
            assert stop - first <= n, "the rows do not fit into the cache"
            pages.append([part * n + page % n for page in range(first, stop)])
        return pages


def page_windows(config: ModelConfig) -> tuple[int | None, ...]:
    """The window of each page group of a model, in the order of the groups: all positions first, then by size."""
    windows = {config.kinds[kind].mixer.window for kind in set(config.layer_kinds)}
    limited = sorted(window for window in windows if window is not None)
    return (None, *limited) if None in windows else tuple(limited)
