"""Texts in pages: what begins like an earlier text is not computed again.

A page whose positions are all computed is sealed: it is found by its parent and its tokens. The parent is the sealed
page before it, named by a serial number that is never used twice, so that a chain of pages stands for exactly one
text. What a text that ended left in its last page is found in the same way. Sealed pages are never written to; the
open last page of a text is its own.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from dllama.engine.pages import PagePool

_ROOT = 0
"""The serial number of the beginning of every text."""


@dataclasses.dataclass
class CachedText:
    """One text and the pages that hold its beginning.

    token_ids   all tokens that are known
    n_computed  of them have their keys and values in `pages`
    """

    token_ids: list[int]
    n_computed: int = 0
    pages: list[int] = dataclasses.field(default_factory=list)
    n_sealed: int = 0  # pages
    serial: int = _ROOT  # of the last sealed page

    @property
    def n_pending(self) -> int:
        """Tokens that are known and not computed."""
        return len(self.token_ids) - self.n_computed


@dataclasses.dataclass(frozen=True)
class _Sealed:
    """What a page holds: these tokens, after the text of `parent`. Fewer than a page's are a text's end."""

    serial: int
    parent: int
    token_ids: tuple[int, ...]


class PrefixCache:
    """Hands pages to texts, and finds those that earlier texts left."""

    def __init__(self, n_pages: int, page_size: int) -> None:
        self.n_pages, self.page_size = n_pages, page_size
        self.pool = PagePool(n_pages)
        self._sealed: dict[int, _Sealed] = {}  # by page
        self._page_of: dict[tuple[int, tuple[int, ...]], int] = {}  # by parent and tokens
        self._children: dict[int, set[int]] = {}  # pages by parent
        self._last_serial = _ROOT

    def adopt(self, text: CachedText) -> int:
        """Adds to `text`, which ends at a whole page, what is cached of its next tokens; returns how many.

        Its last token is always left, as somebody wants its logits.
        """
        n_before, n_limit = text.n_computed, len(text.token_ids) - 1
        assert n_before == text.n_sealed * self.page_size, "the text has an open page"
        while text.n_computed + self.page_size <= n_limit:
            page = self._page_of.get((text.serial, self._page_tokens(text)))
            if page is None:
                break
            self._place(text, page)
            text.n_computed += self.page_size
            self._seal_as(text, self._sealed[page])
        self._adopt_end(text, n_limit)
        return text.n_computed - n_before

    def n_missing(self, text: CachedText, n_tokens: int) -> int:
        """Pages that cannot be handed to others if `text`, with none yet, is to hold `n_tokens`."""
        n_shared, serial = 0, _ROOT
        for first in range(0, len(text.token_ids) - self.page_size, self.page_size):
            page = self._page_of.get((serial, tuple(text.token_ids[first : first + self.page_size])))
            if page is None:
                break
            n_shared += self.pool.is_used(page)
            serial = self._sealed[page].serial
        return -(-n_tokens // self.page_size) - n_shared

    def make_room(self, text: CachedText, n_tokens: int) -> bool:
        """Gives `text` pages for its first `n_tokens` tokens; False, and none, when there are too few."""
        n_more = -(-n_tokens // self.page_size) - len(text.pages)
        if n_more > self.pool.n_available:
            return False
        text.pages.extend(self.pool.take(self._forget) for _ in range(n_more))
        return True

    def advance(self, text: CachedText, n: int) -> None:
        """The next `n` tokens of `text` are computed; pages that are full now are sealed."""
        text.n_computed += n
        assert text.n_computed <= len(text.token_ids)
        while (text.n_sealed + 1) * self.page_size <= text.n_computed:
            self._seal(text)

    def release(self, text: CachedText) -> None:
        """Takes all pages from `text`, as if nothing of it were computed. What they hold is kept for others.

        Its last pages are reused first: without those before them they would be of no use.
        """
        end = tuple(text.token_ids[text.n_sealed * self.page_size : text.n_computed])
        if end and (text.serial, end) not in self._page_of:
            self._register(text.pages[text.n_sealed], text.serial, end)
        for page in reversed(text.pages):
            self.pool.let_go(page, keep=page in self._sealed)
        text.pages = []
        text.n_computed = text.n_sealed = 0
        text.serial = _ROOT

    def _adopt_end(self, text: CachedText, n_limit: int) -> None:
        """Takes over a page that nobody uses or builds on, as far as it holds the next tokens of `text`.

        It is lost to others, so at least half of what it holds must be of use here.
        """
        wanted = text.token_ids[text.n_computed : min(n_limit, text.n_computed + self.page_size - 1)]
        best, n_best = -1, 0
        for page in self._children.get(text.serial, ()):
            sealed = self._sealed[page]
            n_common = _n_common(sealed.token_ids, wanted)
            is_free = not self.pool.is_used(page) and sealed.serial not in self._children
            if is_free and n_common > n_best and 2 * n_common >= len(sealed.token_ids):
                best, n_best = page, n_common
        if n_best:
            self._place(text, best)
            self._forget(best)
            text.n_computed += n_best

    def _place(self, text: CachedText, page: int) -> None:
        """Makes `page` the page after the sealed ones of `text`, in place of one that it may already have."""
        self.pool.share(page)
        if len(text.pages) > text.n_sealed:
            self.pool.let_go(text.pages[text.n_sealed], keep=False)
            text.pages[text.n_sealed] = page
        else:
            text.pages.append(page)

    def _seal(self, text: CachedText) -> None:
        """Seals the next page of `text`; where another page holds the same text, that one takes its place."""
        tokens = self._page_tokens(text)
        page = self._page_of.get((text.serial, tokens))
        if page is None:
            page = text.pages[text.n_sealed]
            self._register(page, text.serial, tokens)
        else:
            self._place(text, page)
        self._seal_as(text, self._sealed[page])

    @staticmethod
    def _seal_as(text: CachedText, sealed: _Sealed) -> None:
        text.n_sealed += 1
        text.serial = sealed.serial

    def _page_tokens(self, text: CachedText) -> tuple[int, ...]:
        first = text.n_sealed * self.page_size
        return tuple(text.token_ids[first : first + self.page_size])

    def _register(self, page: int, parent: int, token_ids: tuple[int, ...]) -> None:
        self._last_serial += 1
        self._sealed[page] = _Sealed(self._last_serial, parent, token_ids)
        self._page_of[parent, token_ids] = page
        self._children.setdefault(parent, set()).add(page)

    def _forget(self, page: int) -> None:
        sealed = self._sealed.pop(page)
        del self._page_of[sealed.parent, sealed.token_ids]
        siblings = self._children[sealed.parent]
        siblings.remove(page)
        if not siblings:
            del self._children[sealed.parent]


def _n_common(a: Sequence[int], b: Sequence[int]) -> int:
    """How many tokens both begin with."""
    for index, (x, y) in enumerate(zip(a, b, strict=False)):
        if x != y:
            return index
    return min(len(a), len(b))
