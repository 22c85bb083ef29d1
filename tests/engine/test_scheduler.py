"""Random lives of requests: rows fit, everybody gets on, and no page is ever lost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from dllama.dtypes import ElementType
from dllama.engine.pace import StepPace
from dllama.engine.prefix_cache import PrefixCache
from dllama.engine.scheduler import Chunk, ScheduledRequest, Scheduler
from dllama.model import CacheShape, PageGroup

SIZE, MAX_SEQ_LEN = 4, 24


def shape_of(groups: Sequence[tuple[int | None, int]]) -> CacheShape:
    """From windows and numbers of pages."""
    return CacheShape(
        groups=tuple(PageGroup(window=window, n_pages=n) for window, n in groups),
        page_size=SIZE,
        dtype=ElementType.F16,
    )


class AnySchedule(RuleBasedStateMachine):
    """Jobs of few different tokens are added, computed and cancelled in any order."""

    @initialize(
        n_pages=st.integers(MAX_SEQ_LEN // SIZE, 16),
        windows=st.sampled_from([(None,), (None, 5), (7,), (1, 9), (None, 1, 6)]),
        n_window_pages=st.integers(4, 12),
        n_parallel=st.integers(1, 5),
        max_rows=st.integers(4, 12),
        max_logit_rows=st.integers(1, 6),
    )
    def start(
        self,
        n_pages: int,
        windows: tuple[int | None, ...],
        n_window_pages: int,
        n_parallel: int,
        max_rows: int,
        max_logit_rows: int,
    ) -> None:
        self.max_rows, self.max_logit_rows = max_rows, min(max_rows, max_logit_rows)
        self.n_parallel = n_parallel
        self.shape = shape_of([(window, n_window_pages if window else n_pages) for window in windows])
        self.cache = PrefixCache(self.shape)
        self.pace = StepPace(max_rows)
        self.scheduler = Scheduler(
            self.cache,
            self.pace,
            n_parallel=n_parallel,
            max_rows=max_rows,
            max_logit_rows=self.max_logit_rows,
        )
        self.requests: list[ScheduledRequest] = []
        self.n_arrived = 0

    @rule(token_ids=st.lists(st.integers(0, 1), min_size=1, max_size=MAX_SEQ_LEN - 1), embeds=st.booleans())
    def add(self, token_ids: list[int], embeds: bool) -> None:
        self.n_arrived += 1
        self.requests.append(
            ScheduledRequest(self.cache.begin(token_ids), self.n_arrived, len(token_ids), embeds)
        )
        self.scheduler.add(self.requests[-1])

    @precondition(lambda self: self.requests)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        self.end(data.draw(st.sampled_from(self.requests)))

    @precondition(lambda self: self.requests)
    @rule(data=st.data(), seconds=st.floats(0.001, 0.1))
    def step(self, data: st.DataObject, seconds: float) -> None:
        def draft(request: ScheduledRequest, n_used: int, n_most: int) -> tuple[int, ...]:
            n_left = MAX_SEQ_LEN - len(request.text.token_ids)
            return (0, 1, 1)[: min(data.draw(st.integers(0, 3)), n_most, n_left)]

        oldest = min(self.requests, key=lambda request: request.arrival)
        before = (len(oldest.text.token_ids), oldest.text.n_computed)
        chunks = self.scheduler.next_step(draft)
        self.check_rows(chunks)
        for chunk in chunks:
            text = chunk.request.text
            self.cache.advance(text, chunk.n_rows)
            if chunk.wants_logits:
                n_drawn = data.draw(st.integers(1, 1 + len(chunk.draft_ids)))
                text.token_ids += [*chunk.draft_ids[: n_drawn - 1], data.draw(st.integers(0, 1))]
                self.cache.advance(text, n_drawn - 1)
                if len(text.token_ids) >= MAX_SEQ_LEN:
                    self.end(chunk.request)
            elif not text.n_pending:
                self.end(chunk.request)
        is_alone = self.max_logit_rows > self.n_parallel  # else decoding texts take turns with it
        n_prompt = sum(chunk.n_rows for chunk in chunks if chunk.request.is_prefilling)
        self.pace.observe(
            sum(chunk.n_rows + len(chunk.draft_ids) for chunk in chunks) - n_prompt, n_prompt, seconds
        )
        if is_alone and n_prompt and oldest in self.requests:
            assert (len(oldest.text.token_ids), oldest.text.n_computed) > before, "the oldest did not get on"

    def check_rows(self, chunks: list[Chunk]) -> None:
        assert chunks, "there are jobs, and none has a row"
        assert sum(chunk.n_rows + len(chunk.draft_ids) for chunk in chunks) <= self.max_rows
        assert sum(chunk.n_wanted for chunk in chunks) <= self.max_logit_rows
        assert len({id(chunk.request) for chunk in chunks}) == len(chunks) <= self.n_parallel
        for chunk in chunks:
            text, n = chunk.request.text, chunk.n_rows
            assert chunk.request in self.scheduler.running
            assert 0 < n <= text.n_pending
            for held, group in zip(text.pages, self.shape.groups, strict=True):
                stop = group.first_page(text.n_computed, SIZE) + len(held)
                assert stop * SIZE >= text.n_computed + n + len(chunk.draft_ids)
            assert chunk.wants_logits == (n == text.n_pending and not chunk.request.is_whole)

    def end(self, request: ScheduledRequest) -> None:
        self.requests.remove(request)
        self.scheduler.remove(request)
        assert not any(request.text.pages)

    @invariant()
    def every_page_is_accounted_for(self) -> None:
        for number, (pool, group) in enumerate(zip(self.cache.pools, self.shape.groups, strict=True)):
            used = {page for request in self.requests for page in request.text.pages[number]}
            assert pool.n_used == len(used)
            assert pool.n_used + pool.n_kept + pool.n_blank == group.n_pages
        assert len(self.scheduler.running) <= self.n_parallel
        held = [*self.scheduler.running, *self.scheduler.waiting]
        arrivals = [request.arrival for request in self.requests]
        assert sorted(request.arrival for request in held) == sorted(arrivals)

    @invariant()
    def an_open_page_has_one_owner(self) -> None:
        for number, group in enumerate(self.shape.groups):
            users = Counter(page for request in self.requests for page in request.text.pages[number])
            for request in self.requests:
                text = request.text
                n_sealed = text.n_sealed - group.first_page(text.n_computed, SIZE)
                assert all(users[page] == 1 for page in text.pages[number][n_sealed:])

    def teardown(self) -> None:
        for request in list(self.requests):
            self.end(request)
        assert all(pool.n_used == 0 for pool in self.cache.pools)


AnySchedule.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestAnySchedule = AnySchedule.TestCase


def scheduler_of(
    n_pages: int = 64, max_rows: int = 16, windows: Sequence[tuple[int, int]] = (), n_parallel: int = 4
) -> tuple[Scheduler, PrefixCache]:
    """`windows`: size and number of pages of other groups."""
    cache = PrefixCache(shape_of([(None, n_pages), *windows]))
    scheduler = Scheduler(
        cache, StepPace(max_rows), n_parallel=n_parallel, max_rows=max_rows, max_logit_rows=8
    )
    return scheduler, cache


def no_guess(request: ScheduledRequest, n_used: int, n_most: int) -> tuple[int, ...]:
    return ()


def test_a_short_prompt_passes_a_long_one_which_still_gets_half() -> None:
    scheduler, cache = scheduler_of()
    long = ScheduledRequest(cache.begin(list(range(100, 180))), 1, 80)
    short = ScheduledRequest(cache.begin([7, 8, 9]), 2, 3)
    middle = ScheduledRequest(cache.begin(list(range(40))), 3, 40)
    for request in (long, middle, short):
        scheduler.add(request)
    rows = {id(chunk.request): chunk.n_rows for chunk in scheduler.next_step(no_guess)}
    assert rows == {id(long): 8, id(short): 3, id(middle): 5}


def test_a_prompt_waits_for_the_pages_that_another_is_computing() -> None:
    scheduler, cache = scheduler_of()
    first = ScheduledRequest(cache.begin([*range(40), 1]), 1, 41)
    second = ScheduledRequest(cache.begin([*range(40), 2]), 2, 41)
    for request in (first, second):
        scheduler.add(request)
    assert [(chunk.request, chunk.n_rows) for chunk in scheduler.next_step(no_guess)] == [(first, 16)]


def test_who_does_not_fit_waits_and_whoever_comes_later_waits_behind() -> None:
    scheduler, cache = scheduler_of(n_pages=8)
    requests = [
        ScheduledRequest(cache.begin([n] * length), n, length) for n, length in ((1, 20), (2, 20), (3, 1))
    ]
    for request in requests:
        scheduler.add(request)
    scheduler.next_step(no_guess)
    assert scheduler.running == requests[:1]
    assert list(scheduler.waiting) == requests[1:]


def test_a_prompt_takes_as_many_rows_as_its_windows_have_pages_for() -> None:
    """And no other text loses its pages for it."""
    scheduler, cache = scheduler_of(max_rows=32, windows=[(5, 4)])
    first, second = (ScheduledRequest(cache.begin([n] * 40), n, 40) for n in (1, 2))
    for request in (first, second):
        scheduler.add(request)
    for _ in range(30):
        chunks = scheduler.next_step(no_guess)
        assert chunks
        for chunk in chunks:
            cache.advance(chunk.request.text, chunk.n_rows)
            if not chunk.request.text.n_pending:
                scheduler.remove(chunk.request)
        if not scheduler.running:
            break
    assert not scheduler.running
    assert scheduler.n_preemptions == 0


def test_nobody_waits_for_a_page_that_a_window_has_left_behind() -> None:
    """The second prompt parts from the first one, which is still at work, where its window has been given up."""
    scheduler, cache = scheduler_of(max_rows=16, windows=[(5, 12)])
    first = ScheduledRequest(cache.begin([*range(100)]), 1, 100)
    scheduler.add(first)
    for _ in range(5):
        (chunk,) = scheduler.next_step(no_guess)
        cache.advance(first.text, chunk.n_rows)
    other = cache.begin([0])
    assert cache.make_room(other, SIZE * cache.pools[1].n_available)  # what the window has left is lost
    cache.release(other)
    second = ScheduledRequest(cache.begin([*range(10), 99, 99]), 2, 12)
    scheduler.add(second)
    assert {chunk.request.arrival for chunk in scheduler.next_step(no_guess)} == {1, 2}
