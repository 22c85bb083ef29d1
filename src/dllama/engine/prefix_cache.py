"""Texts in pages: what begins like an earlier text is not computed again.

A page whose positions are all computed is sealed: it is found by the text that ends with it (PageTrie). What a text
that ended left in its last page is found in the same way. Sealed pages are never written to; the open pages of a text,
behind those, are its own.

Pages come in groups (see CacheShape). What a group needs to go on from a page border is its `n_back` pages before that
border, so a text holds no more than these of its sealed pages, and what is cached of an earlier text is of use up to a
border only if every group still has what it needs there.

A page of a model with states is not made of positions: of what a text left in its last page, all has to be of use.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

from dllama.engine.page_trie import Node, PageTrie
from dllama.engine.pages import PagePool, Worth
from dllama.model import CacheShape, PageGroup


@dataclasses.dataclass
class CachedText:
    """One text and the pages that hold what is needed of its beginning. Made by PrefixCache.begin.

    token_ids   all tokens that are known
    n_computed  of them have their keys and values in `pages`
    pages       of each group, from its PageGroup.first_page of `n_computed` on
    """

    token_ids: list[int]
    n_prompt: int
    node: Node  # of the last sealed page
    pages: list[list[int]]
    n_computed: int = 0
    n_sealed: int = 0  # pages
    n_common: int = 0  # pages after which it parted from another text
    is_ahead: bool = False  # more may have been computed than `n_computed` says

    @property
    def n_pending(self) -> int:
        """Tokens that are known and not computed."""
        return len(self.token_ids) - self.n_computed


class _Group:
    """The pages of one group, of all texts."""

    def __init__(self, number: int, of: PageGroup, page_size: int, trie: PageTrie) -> None:
        self.number, self.n_pages, self.n_back = number, of.n_pages, of.n_back(page_size)
        self.pool = PagePool(of.n_pages)
        self._forget = functools.partial(trie.forget, number)

    def n_needed(self, n_sealed: int) -> int:
        """Of so many sealed pages, to go on after them."""
        return n_sealed if self.n_back is None else min(n_sealed, self.n_back)

    def first(self, text: CachedText) -> int:
        """The number of the first page that the text holds, counted from its beginning."""
        return text.n_sealed - self.n_needed(text.n_sealed)

    def stop(self, text: CachedText) -> int:
        """The number of the page after the last one that it holds."""
        return self.first(text) + len(text.pages[self.number])

    def take(self) -> int:
        return self.pool.take(self._forget)


class PrefixCache:
    """Hands pages to texts, and finds those that earlier texts left."""

    def __init__(self, shape: CacheShape, *, has_states: bool = False) -> None:
        self._has_states = has_states
        self.page_size = shape.page_size
        self._trie = PageTrie(len(shape.groups))
        self._groups = [
            _Group(number, group, shape.page_size, self._trie) for number, group in enumerate(shape.groups)
        ]

    @property
    def pools(self) -> list[PagePool]:
        """That of each group."""
        return [group.pool for group in self._groups]

    def begin(self, token_ids: list[int]) -> CachedText:
        """A text of which nothing is computed."""
        return CachedText(token_ids, len(token_ids), self._trie.root, [[] for _ in self._groups])

    def adopt(self, text: CachedText) -> int:
        """Adds to `text`, which ends at a whole page, what is cached of its next tokens; returns how many.

        Its last token is always left, as somebody wants its logits.
        """
        n_before = text.n_computed
        assert n_before == text.n_sealed * self.page_size, "the text has an open page"
        path = self._usable_path(text)
        if path:
            self._take_over(text, path)
        self._adopt_end(text)
        return text.n_computed - n_before

    def n_missing(self, text: CachedText, n_tokens: int, n_spare: int = 0) -> list[int]:
        """Pages of each group that cannot be handed to others if `text` is to hold `n_tokens`, and `n_spare` pages more
        to go on in. A window gives one up for each that it goes on in, so it never needs more than it holds at once."""
        path = [] if text.n_computed else self._usable_path(text)
        n_pages, missing = -(-n_tokens // self.page_size), []
        for group in self._groups:
            most = n_pages + n_spare if group.n_back is None else group.n_back + 1
            pages = [node.pages[group.number] for node in path[max(0, n_pages - most) :]]
            n_shared = sum(page is not None and group.pool.is_used(page) for page in pages)
            n = min(n_pages + n_spare, most)
            missing.append(max(0, n - n_shared - len(text.pages[group.number])))
        return missing

    def are_available(self, n_pages: Sequence[int]) -> bool:
        """Whether there are so many of each group."""
        return all(n <= group.pool.n_available for n, group in zip(n_pages, self._groups, strict=True))

    def n_fitting(self, text: CachedText, n_tokens: int) -> int:
        """For how many of the next `n_tokens` of `text` groups with a window have pages."""
        for group in self._groups:
            if group.n_back is not None:
                n_pages = group.stop(text) + group.pool.n_available
                n_tokens = min(n_tokens, n_pages * self.page_size - text.n_computed)
        return n_tokens

    def make_room(self, text: CachedText, n_tokens: int) -> bool:
        """Gives `text` pages for its first `n_tokens` tokens; False, and none, when there are too few."""
        n_pages = -(-n_tokens // self.page_size)
        lacking = [n_pages - group.stop(text) for group in self._groups]
        if not self.are_available(lacking):
            return False
        for group, held, n in zip(self._groups, text.pages, lacking, strict=True):
            held.extend(group.take() for _ in range(n))
        return True

    def advance(self, text: CachedText, n: int) -> None:
        """The next `n` tokens of `text` are computed; pages that are full now are sealed, and given up where no window
        reaches them any longer."""
        text.n_computed += n
        text.is_ahead = False
        assert text.n_computed <= len(text.token_ids)
        while (text.n_sealed + 1) * self.page_size <= text.n_computed:
            self._seal(text)

    def release(self, text: CachedText) -> None:
        """Takes all pages from `text`, as if nothing of it were computed. What they hold is kept for others.

        Its last pages are reused first: without those before them they would be of no use.
        """
        end = tuple(text.token_ids[text.n_sealed * self.page_size : text.n_computed])
        if end and not (self._has_states and text.is_ahead):
            node = self._trie.below(text.node, end)
            for group, held in zip(self._groups, text.pages, strict=True):
                if node.pages[group.number] is None:
                    self._trie.put(node, group.number, held[group.n_needed(text.n_sealed)])
        for group, held in zip(self._groups, text.pages, strict=True):
            for page in reversed(held):
                is_found = self._trie.holds(group.number, page)
                group.pool.let_go(page, Worth.MUCH if is_found else Worth.NONE)
            held.clear()
        self._go_to(text, self._trie.root, 0)
        text.n_computed, text.is_ahead = 0, False

    def _usable_path(self, text: CachedText) -> list[Node]:
        """The nodes of the next tokens of `text`, its last one left out, up to the last border from which every group
        can go on."""
        path, node, runs = list[Node](), text.node, [0] * len(self._groups)
        n_usable = 0
        for first in range(text.n_computed, len(text.token_ids) - self.page_size, self.page_size):
            child = node.children.get(tuple(text.token_ids[first : first + self.page_size]))
            if child is None:
                break
            node = child
            path.append(node)
            runs = [0 if page is None else run + 1 for run, page in zip(runs, node.pages, strict=True)]
            needed = (group.n_needed(len(path)) for group in self._groups)
            if all(run >= n for run, n in zip(runs, needed, strict=True)):
                n_usable = len(path)
        return path[:n_usable]

    def _take_over(self, text: CachedText, path: Sequence[Node]) -> None:
        """Makes the pages of these nodes, as far as they are needed, the next of `text`."""
        self._drop_open(text)
        n_sealed = text.n_sealed + len(path)
        for group, held in zip(self._groups, text.pages, strict=True):
            n = group.n_needed(len(path))
            for node in path[len(path) - n :]:
                page = node.pages[group.number]
                assert page is not None
                group.pool.share(page)
                held.append(page)
            self._give_up(text, group, len(held) - group.n_needed(n_sealed))
        self._go_to(text, path[-1], n_sealed)
        text.n_computed = n_sealed * self.page_size

    def _adopt_end(self, text: CachedText) -> None:
        """Takes over a page that nobody uses or builds on, as far as it holds the next tokens of `text`.

        It is lost to others, so at least half of what it holds must be of use here.
        """
        n_limit = min(len(text.token_ids) - 1, text.n_computed + self.page_size - 1)
        wanted = text.token_ids[text.n_computed : n_limit]
        best, n_best = text.node, 0
        for node in text.node.children.values():
            n_common = _n_common(node.token_ids, wanted)
            if self._has_states and n_common < len(node.token_ids):
                continue
            if n_common > n_best and 2 * n_common >= len(node.token_ids) and self._is_free(node):
                best, n_best = node, n_common
        if n_best:
            self._drop_open(text)
            pages = self._trie.remove(best)
            for group, held, page in zip(self._groups, text.pages, pages, strict=True):
                group.pool.share(page)
                held.append(page)
            text.n_computed += n_best

    def _is_free(self, node: Node) -> bool:
        """Whether it has a page in each group, and nobody uses or builds on it."""
        pairs = zip(self._groups, node.pages, strict=True)
        return not (node.children or node.n_texts) and all(
            page is not None and not group.pool.is_used(page) for group, page in pairs
        )

    def _seal(self, text: CachedText) -> None:
        """Seals the next page of `text`; where another page holds the same text, that one takes its place."""
        first = text.n_sealed * self.page_size
        tokens = tuple(text.token_ids[first : first + self.page_size])
        if text.node.children and tokens not in text.node.children:
            text.n_common = text.n_sealed
        node = self._trie.below(text.node, tokens)
        for group, held in zip(self._groups, text.pages, strict=True):
            place, known = group.n_needed(text.n_sealed), node.pages[group.number]
            if known is None:
                self._trie.put(node, group.number, held[place])
            else:
                group.pool.share(known)
                group.pool.let_go(held[place], Worth.NONE)
                held[place] = known
            self._give_up(text, group, place + 1 - group.n_needed(text.n_sealed + 1))
        self._go_to(text, node, text.n_sealed + 1)

    def _give_up(self, text: CachedText, group: _Group, n: int) -> None:
        """Takes the first `n` pages, which are sealed, from `text`. Others are likely to need those before the place
        where texts parted, and those before its answer."""
        held = text.pages[group.number]
        marks = (text.n_common, text.n_prompt // self.page_size)
        for index, page in enumerate(held[:n], start=group.first(text)):
            is_likely = any(mark - group.n_needed(mark) <= index < mark for mark in marks)
            group.pool.let_go(page, Worth.MUCH if is_likely else Worth.LITTLE)
        del held[:n]

    def _drop_open(self, text: CachedText) -> None:
        """Takes pages that are not sealed from `text`: they hold nothing."""
        for group, held in zip(self._groups, text.pages, strict=True):
            n_sealed = group.n_needed(text.n_sealed)
            for page in held[n_sealed:]:
                group.pool.let_go(page, Worth.NONE)
            del held[n_sealed:]

    def _go_to(self, text: CachedText, node: Node, n_sealed: int) -> None:
        self._trie.move(text.node, node)
        text.node, text.n_sealed = node, n_sealed


def _n_common(a: Sequence[int], b: Sequence[int]) -> int:
    """How many tokens both begin with."""
    for index, (x, y) in enumerate(zip(a, b, strict=False)):
        if x != y:
            return index
    return min(len(a), len(b))
