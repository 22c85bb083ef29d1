"""Pages: counted, found again, reused when least recently used, and never leaked."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from dllama.engine.pages import PagePool
from dllama.engine.prefix_cache import CachedText, PrefixCache

SIZE = 4


def compute(cache: PrefixCache, token_ids: list[int]) -> CachedText:
    """A text, all of it computed but what was cached."""
    text = CachedText(token_ids)
    cache.adopt(text)
    assert cache.make_room(text, len(token_ids))
    cache.advance(text, text.n_pending)
    return text


# The pool


def test_blank_pages_come_before_kept_ones_and_those_by_age() -> None:
    reused: list[int] = []
    pool = PagePool(4)
    assert [pool.take(reused.append) for _ in range(3)] == [0, 1, 2]
    for page, keep in ((1, True), (0, True), (2, False)):
        pool.let_go(page, keep)
    assert (pool.n_blank, pool.n_kept, pool.n_used) == (2, 2, 0)
    assert [pool.take(reused.append) for _ in range(4)] == [2, 3, 1, 0]
    assert reused == [1, 0]
    assert pool.n_available == 0


def test_a_page_is_free_when_its_last_user_is_gone() -> None:
    pool = PagePool(1)
    page = pool.take(print)
    pool.share(page)
    pool.let_go(page, keep=True)
    assert pool.n_available == 0
    pool.let_go(page, keep=True)
    pool.share(page)
    assert pool.is_used(page)
    assert pool.n_kept == 0


# Prefixes


def test_whole_pages_are_shared_while_both_run() -> None:
    cache = PrefixCache(8, SIZE)
    first = compute(cache, [1, 2, 3, 4, 5, 6, 7, 8, 9])
    second = CachedText([1, 2, 3, 4, 5, 6, 7, 8, 10])
    assert cache.adopt(second) == 8
    assert second.pages == first.pages[:2]
    assert cache.pool.n_used == 3


def test_the_last_token_is_always_left() -> None:
    cache = PrefixCache(8, SIZE)
    cache.release(compute(cache, [1, 2, 3, 4, 5, 6, 7, 8]))
    again = CachedText([1, 2, 3, 4, 5, 6, 7, 8])
    assert cache.adopt(again) == 7  # the last page is taken over: nobody else has it
    assert len(again.pages) == 2


def test_a_text_goes_on_in_the_page_where_it_ended() -> None:
    cache = PrefixCache(8, SIZE)
    ended = compute(cache, [1, 2, 3, 4, 5, 6])
    pages = list(ended.pages)
    cache.release(ended)
    assert (cache.pool.n_used, cache.pool.n_kept) == (0, 2)
    longer = CachedText([1, 2, 3, 4, 5, 6, 7, 8, 9])
    assert cache.adopt(longer) == 6
    assert longer.pages == pages
    assert CachedText([1, 2, 3, 4, 5, 6, 7]).n_computed == 0
    other = CachedText([1, 2, 3, 4, 5, 6, 7])
    assert cache.adopt(other) == 4  # the open page belongs to `longer` now


def test_a_page_of_which_little_is_of_use_is_left_to_others() -> None:
    cache = PrefixCache(8, SIZE)
    cache.release(compute(cache, [1, 2, 3, 4, 5, 6, 7, 8]))
    assert cache.adopt(CachedText([1, 2, 3, 4, 5, 9, 9, 9])) == 4
    assert cache.adopt(CachedText([1, 2, 3, 4, 5, 6, 9, 9])) == 6


def test_two_texts_that_computed_the_same_end_up_with_one_page() -> None:
    cache = PrefixCache(8, SIZE)
    first, second = CachedText([1, 2, 3, 4, 5]), CachedText([1, 2, 3, 4, 6])
    for text in (first, second):
        assert cache.make_room(text, 5)
    assert first.pages[0] != second.pages[0]
    for text in (first, second):
        cache.advance(text, 5)
    assert first.pages[0] == second.pages[0]
    assert cache.pool.n_used == 3


def test_equal_pages_after_different_beginnings_are_different() -> None:
    cache = PrefixCache(8, SIZE)
    cache.release(compute(cache, [1, 1, 1, 1, 7, 7, 7, 7, 7]))
    assert cache.adopt(CachedText([2, 2, 2, 2, 7, 7, 7, 7, 7])) == 0
    assert cache.adopt(CachedText([7, 7, 7, 7, 7])) == 0


def test_the_ends_of_old_texts_are_reused_first() -> None:
    cache = PrefixCache(4, SIZE)
    cache.release(compute(cache, list(range(16))))
    other = CachedText([99] * 5)
    assert cache.make_room(other, 5)
    assert cache.adopt(CachedText(list(range(16)))) == 8


def test_too_few_pages_gives_none() -> None:
    cache = PrefixCache(2, SIZE)
    text = CachedText([1] * 9)
    assert not cache.make_room(text, 9)
    assert text.pages == []
    assert cache.make_room(text, 8)


@pytest.mark.parametrize("n_tokens", [8, 9])
def test_missing_pages_are_those_that_nobody_has_yet(n_tokens: int) -> None:
    cache = PrefixCache(8, SIZE)
    held = compute(cache, [1, 2, 3, 4, 5])
    text = CachedText([1, 2, 3, 4, 5, 6, 7, 8])
    assert cache.n_missing(text, n_tokens) == -(-n_tokens // SIZE) - 1
    cache.release(held)
    assert cache.n_missing(text, n_tokens) == -(-n_tokens // SIZE)  # to take a kept page is to take a page


class AnyLives(RuleBasedStateMachine):
    """Texts of few different tokens come, grow, guess wrong and go. `stored` is what the pages really hold."""

    def __init__(self) -> None:
        super().__init__()
        self.cache = PrefixCache(6, SIZE)
        self.stored = [[-1] * SIZE for _ in range(6)]
        self.texts: list[CachedText] = []

    @rule(token_ids=st.lists(st.integers(0, 1), min_size=1, max_size=14))
    def begin(self, token_ids: list[int]) -> None:
        self.texts.append(CachedText(token_ids))
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
        for position in range(text.n_computed, end + n_wrong):
            token = text.token_ids[position] if position < end else -2
            self.stored[text.pages[position // SIZE]][position % SIZE] = token
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
            held = [token for page in text.pages for token in self.stored[page]]
            assert held[: text.n_computed] == text.token_ids[: text.n_computed]

    @invariant()
    def every_page_is_accounted_for(self) -> None:
        pool = self.cache.pool
        used = {page for text in self.texts for page in text.pages}
        assert {page for page in range(6) if pool.is_used(page)} == used
        assert pool.n_used == len(used)
        assert pool.n_blank + pool.n_kept + pool.n_used == 6
        for text in self.texts:
            shared = set(text.pages[text.n_sealed :]) & {
                page for other in self.texts if other is not text for page in other.pages
            }
            assert not shared, "an open page has two owners"


AnyLives.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestAnyLives = AnyLives.TestCase
