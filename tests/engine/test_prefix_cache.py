"""Pages: counted, found again, reused when least recently used, and never leaked."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from dllama.dtypes import ElementType
from dllama.engine.pages import PagePool, Worth
from dllama.engine.prefix_cache import CachedText, PrefixCache
from dllama.model import CacheShape, PageGroup

SIZE = 4


def cache_of(n_pages: int, **of_windows: int) -> PrefixCache:
    """With `n_pages` for layers without a window; `w5=3`: and 3 for those with a window of 5."""
    groups = [PageGroup(window=None, n_pages=n_pages)] if n_pages else []
    groups += [PageGroup(window=int(name[1:]), n_pages=n) for name, n in of_windows.items()]
    return PrefixCache(CacheShape(groups=tuple(groups), page_size=SIZE, dtype=ElementType.F16))


def compute(cache: PrefixCache, token_ids: list[int]) -> CachedText:
    """A text, all of it computed but what was cached."""
    text = cache.begin(token_ids)
    cache.adopt(text)
    assert cache.make_room(text, len(token_ids))
    cache.advance(text, text.n_pending)
    return text


# The pool


def test_blank_pages_come_before_kept_ones_and_those_by_age() -> None:
    reused: list[int] = []
    pool = PagePool(4)
    assert [pool.take(reused.append) for _ in range(3)] == [0, 1, 2]
    for page, worth in ((1, Worth.MUCH), (0, Worth.MUCH), (2, Worth.NONE)):
        pool.let_go(page, worth)
    assert (pool.n_blank, pool.n_kept, pool.n_used) == (2, 2, 0)
    assert [pool.take(reused.append) for _ in range(4)] == [2, 3, 1, 0]
    assert reused == [1, 0]
    assert pool.n_available == 0


def test_pages_of_little_worth_are_reused_before_others() -> None:
    pool = PagePool(4)
    pages = [pool.take(print) for _ in range(4)]
    for page, worth in zip(pages, (Worth.MUCH, Worth.LITTLE, Worth.LITTLE, Worth.MUCH), strict=True):
        pool.let_go(page, worth)
    assert [pool.take(lambda page: None) for _ in range(4)] == [2, 1, 0, 3]


def test_a_page_is_free_when_its_last_user_is_gone() -> None:
    pool = PagePool(1)
    page = pool.take(print)
    pool.share(page)
    pool.let_go(page, Worth.MUCH)
    assert pool.n_available == 0
    pool.let_go(page, Worth.MUCH)
    pool.share(page)
    assert pool.is_used(page)
    assert pool.n_kept == 0


# Prefixes


def test_whole_pages_are_shared_while_both_run() -> None:
    cache = cache_of(8)
    first = compute(cache, [1, 2, 3, 4, 5, 6, 7, 8, 9])
    second = cache.begin([1, 2, 3, 4, 5, 6, 7, 8, 10])
    assert cache.adopt(second) == 8
    assert second.pages[0] == first.pages[0][:2]
    assert cache.pools[0].n_used == 3


def test_the_last_token_is_always_left() -> None:
    cache = cache_of(8)
    cache.release(compute(cache, [1, 2, 3, 4, 5, 6, 7, 8]))
    again = cache.begin([1, 2, 3, 4, 5, 6, 7, 8])
    assert cache.adopt(again) == 7  # the last page is taken over: nobody else has it
    assert len(again.pages[0]) == 2


def test_a_text_goes_on_in_the_page_where_it_ended() -> None:
    cache = cache_of(8)
    ended = compute(cache, [1, 2, 3, 4, 5, 6])
    pages = list(ended.pages[0])
    cache.release(ended)
    assert (cache.pools[0].n_used, cache.pools[0].n_kept) == (0, 2)
    longer = cache.begin([1, 2, 3, 4, 5, 6, 7, 8, 9])
    assert cache.adopt(longer) == 6
    assert longer.pages == [pages]
    assert cache.begin([1, 2, 3, 4, 5, 6, 7]).n_computed == 0
    other = cache.begin([1, 2, 3, 4, 5, 6, 7])
    assert cache.adopt(other) == 4  # the open page belongs to `longer` now


def test_a_page_of_which_little_is_of_use_is_left_to_others() -> None:
    cache = cache_of(8)
    cache.release(compute(cache, [1, 2, 3, 4, 5, 6, 7, 8]))
    assert cache.adopt(cache.begin([1, 2, 3, 4, 5, 9, 9, 9])) == 4
    assert cache.adopt(cache.begin([1, 2, 3, 4, 5, 6, 9, 9])) == 6


def test_two_texts_that_computed_the_same_end_up_with_one_page() -> None:
    cache = cache_of(8)
    first, second = cache.begin([1, 2, 3, 4, 5]), cache.begin([1, 2, 3, 4, 6])
    for text in (first, second):
        assert cache.make_room(text, 5)
    assert first.pages[0][0] != second.pages[0][0]
    for text in (first, second):
        cache.advance(text, 5)
    assert first.pages[0][0] == second.pages[0][0]
    assert cache.pools[0].n_used == 3


def test_equal_pages_after_different_beginnings_are_different() -> None:
    cache = cache_of(8)
    cache.release(compute(cache, [1, 1, 1, 1, 7, 7, 7, 7, 7]))
    assert cache.adopt(cache.begin([2, 2, 2, 2, 7, 7, 7, 7, 7])) == 0
    assert cache.adopt(cache.begin([7, 7, 7, 7, 7])) == 0


def test_the_ends_of_old_texts_are_reused_first() -> None:
    cache = cache_of(4)
    cache.release(compute(cache, list(range(16))))
    other = cache.begin([99] * 5)
    assert cache.make_room(other, 5)
    assert cache.adopt(cache.begin(list(range(16)))) == 8


def test_too_few_pages_gives_none() -> None:
    cache = cache_of(2)
    text = cache.begin([1] * 9)
    assert not cache.make_room(text, 9)
    assert text.pages == [[]]
    assert cache.make_room(text, 8)


@pytest.mark.parametrize("n_tokens", [8, 9])
def test_missing_pages_are_those_that_nobody_has_yet(n_tokens: int) -> None:
    cache = cache_of(8)
    held = compute(cache, [1, 2, 3, 4, 5])
    text = cache.begin([1, 2, 3, 4, 5, 6, 7, 8])
    assert cache.n_missing(text, n_tokens) == [-(-n_tokens // SIZE) - 1]
    cache.release(held)
    assert cache.n_missing(text, n_tokens) == [-(-n_tokens // SIZE)]  # to take a kept page is to take a page


@pytest.mark.parametrize("n_found", [10, 14])
def test_pages_that_wrong_drafts_left_make_way_for_what_is_found(n_found: int) -> None:
    cache = cache_of(12, w5=12)
    text = cache.begin(list(range(8)))
    assert cache.make_room(text, 8 + SIZE)  # a page for drafts, none of which came true
    cache.advance(text, 8)
    found = compute(cache, list(range(n_found)))
    pages = [list(held) for held in found.pages]
    cache.release(found)
    text.token_ids += range(8, 20)
    assert cache.adopt(text) == n_found - 8
    assert text.pages == pages
    cache.release(text)
    assert [pool.n_used for pool in cache.pools] == [0, 0]


# Windows


def test_a_window_holds_what_it_reaches_and_no_more() -> None:
    """Of 5 positions: the one page before that of the next token."""
    cache = cache_of(8, w5=4)
    text = cache.begin(list(range(24)))
    for n in range(1, 25):
        assert cache.make_room(text, n)
        cache.advance(text, 1)
        assert [len(held) for held in text.pages] == [-(-n // SIZE), min(-(-n // SIZE), 1 + (n % SIZE > 0))]
    assert cache.pools[1].n_used == 1
    cache.release(text)
    assert [pool.n_used for pool in cache.pools] == [0, 0]


@pytest.mark.parametrize(("window", "n_held"), [(1, 0), (2, 1), (5, 1), (6, 2), (9, 2), (10, 3)])
def test_what_a_border_needs(window: int, n_held: int) -> None:
    cache = cache_of(0, **{f"w{window}": 8})
    assert len(compute(cache, list(range(24))).pages[0]) == n_held


def test_a_text_longer_than_all_pages_goes_on_where_layers_have_windows() -> None:
    cache = cache_of(0, w6=4)
    text = cache.begin(list(range(400)))
    while text.n_pending:
        assert cache.make_room(text, text.n_computed + 1)
        cache.advance(text, 1)
    assert cache.pools[0].n_used == 2


def test_a_border_that_a_window_has_left_behind_is_no_hit() -> None:
    """The longest that all groups can go on from: the second text parts after page 5, and pages 4 and 5 of the window
    are reused by then; what is left of it are its first pages and its last."""
    cache = cache_of(24, w9=6)
    first = compute(cache, list(range(20)))
    while first.n_computed < 40:
        first.token_ids.append(first.n_computed)
        assert cache.make_room(first, first.n_computed + 1)
        cache.advance(first, 1)
    parted = cache.begin([*range(20), 99, 99])
    assert cache.adopt(parted) == 20  # where the prompt of the first one ended
    cache.release(parted)
    other = cache.begin([*range(32), 99, 99])
    assert cache.adopt(other) == 20
    assert [len(held) for held in other.pages] == [5, 2]
    cache.release(other)
    cache.release(first)
    again = cache.begin(list(range(50)))
    assert cache.adopt(again) == 40
    assert [len(held) for held in again.pages] == [10, 2]


def test_what_follows_a_lost_page_is_of_no_use() -> None:
    cache = cache_of(4, w99=16)
    cache.release(compute(cache, list(range(16))))
    other = cache.begin([99] * 5)
    assert cache.make_room(other, 5)  # takes the last two pages of the first group
    assert cache.adopt(cache.begin(list(range(16)))) == 8


def test_groups_find_each_other_again() -> None:
    """What one group has lost is computed again, and is a hit in both from then on."""
    cache = cache_of(8, w99=4)
    cache.release(compute(cache, list(range(16))))
    cache.release(compute(cache, [99] * 16))  # takes all pages of the window
    text = cache.begin(list(range(16)))
    assert cache.adopt(text) == 0
    assert cache.make_room(text, 16)
    cache.advance(text, 16)
    assert cache.pools[0].n_used == 4
    cache.release(text)
    assert cache.pools[0].n_kept == 8
    assert cache.adopt(cache.begin([*range(16), 1])) == 16


def test_a_place_where_texts_parted_outlives_what_one_of_them_wrote() -> None:
    """A long prompt that begins like an earlier one gives up 20 pages: those at the fork stay."""
    cache = cache_of(64, w9=8)
    system = [7] * 12
    cache.release(compute(cache, [*system, 1, 2, 3]))
    long = cache.begin([*system, *range(100, 180)])
    cache.adopt(long)
    while long.n_pending:
        assert cache.make_room(long, long.n_computed + 1)
        cache.advance(long, 1)
    assert cache.adopt(cache.begin([*system, 50, 51])) == 12


# Anything


class AnyLives(RuleBasedStateMachine):
    """Texts of few different tokens come, grow, guess wrong and go. `stored` is what the pages really hold."""

    @initialize(windows=st.sampled_from([(None,), (None, 5), (3,), (1, 9), (None, 1, 4, 6), (None, 99)]))
    def start(self, windows: tuple[int | None, ...]) -> None:
        n_pages = [6 if window is None else 7 for window in windows]
        groups = tuple(PageGroup(window=w, n_pages=n) for w, n in zip(windows, n_pages, strict=True))
        self.groups = groups
        self.cache = PrefixCache(CacheShape(groups=groups, page_size=SIZE, dtype=ElementType.F16))
        self.stored = [[[-1] * SIZE for _ in range(group.n_pages)] for group in groups]
        self.texts: list[CachedText] = []

    @rule(token_ids=st.lists(st.integers(0, 1), min_size=1, max_size=14))
    def begin(self, token_ids: list[int]) -> None:
        self.texts.append(self.cache.begin(token_ids))
        self.cache.adopt(self.texts[-1])

    @precondition(lambda self: self.texts)
    @rule(data=st.data(), n=st.integers(1, 6), n_wrong=st.integers(0, 3))
    def grow(self, data: st.DataObject, n: int, n_wrong: int) -> None:
        text = data.draw(st.sampled_from(self.texts))
        n = min(n, text.n_pending)
        if not text.n_computed % SIZE and text.n_pending:
            self.cache.adopt(text)
            n = min(n, text.n_pending)
        end = text.n_computed + n
        if not self.cache.make_room(text, end + n_wrong):
            return
        for stored, held, group in zip(self.stored, text.pages, self.groups, strict=True):
            first = group.first_page(text.n_computed, SIZE)
            for position in range(text.n_computed, end + n_wrong):
                token = text.token_ids[position] if position < end else -2
                stored[held[position // SIZE - first]][position % SIZE] = token
        self.cache.advance(text, n)
        text.token_ids.append(data.draw(st.integers(0, 1)))

    @precondition(lambda self: self.texts)
    @rule(data=st.data(), keeps=st.booleans())
    def end(self, data: st.DataObject, keeps: bool) -> None:
        text = data.draw(st.sampled_from(self.texts))
        self.cache.release(text)
        if not keeps:  # else it is preempted
            self.texts.remove(text)

    @invariant()
    def pages_hold_what_they_should(self) -> None:
        for text in self.texts:
            for stored, held, group in zip(self.stored, text.pages, self.groups, strict=True):
                first = group.first_page(text.n_computed, SIZE) * SIZE
                tokens = [token for page in held for token in stored[page]]
                assert tokens[: text.n_computed - first] == text.token_ids[first : text.n_computed]
                assert group.window is None or first <= max(0, text.n_computed - group.window + 1)

    @invariant()
    def every_page_is_accounted_for(self) -> None:
        for number, (pool, group) in enumerate(zip(self.cache.pools, self.groups, strict=True)):
            used = {page for text in self.texts for page in text.pages[number]}
            assert {page for page in range(group.n_pages) if pool.is_used(page)} == used
            assert pool.n_used == len(used)
            assert pool.n_blank + pool.n_kept + pool.n_used == group.n_pages
            for text in self.texts:
                n_sealed = text.n_sealed - group.first_page(text.n_computed, SIZE)
                of_others = (
                    page for other in self.texts if other is not text for page in other.pages[number]
                )
                assert not set(text.pages[number][n_sealed:]) & set(of_others), "an open page has two owners"

    @invariant()
    def nothing_is_remembered_of_what_is_lost(self) -> None:
        nodes = [self.cache._trie.root]
        for node in nodes:
            nodes.extend(node.children.values())
            is_leaf = node.parent is not None and not node.children
            assert not is_leaf or node.n_texts or any(page is not None for page in node.pages)
        texts_at = [node.n_texts for node in nodes[1:]]
        assert sum(texts_at) == sum(text.n_sealed > 0 for text in self.texts)

    def teardown(self) -> None:
        for text in self.texts:
            self.cache.release(text)
        assert all(pool.n_used == 0 for pool in self.cache.pools)


AnyLives.TestCase.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)
TestAnyLives = AnyLives.TestCase
