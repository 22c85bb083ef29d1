"""Who uses which page of the KV cache. The same numbers hold on every node."""

from __future__ import annotations

import enum
from collections import OrderedDict
from collections.abc import Callable


class Worth(enum.Enum):
    """Of what a page holds that nobody uses any longer."""

    NONE = enum.auto()
    LITTLE = enum.auto()
    MUCH = enum.auto()


class PagePool:
    """Counts the users of each page. A page without users is blank, or kept for what it holds.

    Blank pages are handed out first, lowest first. Of the kept ones those of little worth come next, the last one that
    was let go first, then the others, least recently used first.
    """

    def __init__(self, n_pages: int) -> None:
        self._n_users = [0] * n_pages
        self._blank = list(range(n_pages - 1, -1, -1))
        self._kept: OrderedDict[int, None] = OrderedDict()

    @property
    def n_blank(self) -> int:
        return len(self._blank)

    @property
    def n_kept(self) -> int:
        return len(self._kept)

    @property
    def n_used(self) -> int:
        return len(self._n_users) - self.n_available

    @property
    def n_available(self) -> int:
        """Pages that `take` can give."""
        return len(self._blank) + len(self._kept)

    def is_used(self, page: int) -> bool:
        return self._n_users[page] > 0

    def take(self, on_reuse: Callable[[int], None]) -> int:
        """A page for one user, holding nothing of worth. There must be one. `on_reuse(page)` is called when it is a
        kept page that is about to lose what it holds."""
        if self._blank:
            page = self._blank.pop()
        else:
            page = next(iter(self._kept))
            on_reuse(page)
            del self._kept[page]
        self._n_users[page] = 1
        return page

    def share(self, page: int) -> None:
        """One user more of a page that is used or kept."""
        if not self._n_users[page]:
            del self._kept[page]
        self._n_users[page] += 1

    def let_go(self, page: int, worth: Worth) -> None:
        """One user less; the last one says what the page is worth to others."""
        assert self._n_users[page] > 0, page
        self._n_users[page] -= 1
        if self._n_users[page]:
            return
        if worth is Worth.NONE:
            self._blank.append(page)
        else:
            self._kept[page] = None
            self._kept.move_to_end(page, last=worth is Worth.MUCH)
