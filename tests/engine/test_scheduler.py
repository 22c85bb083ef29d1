"""Random lives of requests: rows fit, everybody gets on, and no page is ever lost."""

from __future__ import annotations

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from dllama.engine.pace import StepPace
from dllama.engine.prefix_cache import CachedText, PrefixCache
from dllama.engine.scheduler import Chunk, ScheduledRequest, Scheduler

SIZE, MAX_SEQ_LEN = 4, 24


class AnySchedule(RuleBasedStateMachine):
    """Jobs of few different tokens are added, computed and cancelled in any order."""

    @initialize(
        n_pages=st.integers(MAX_SEQ_LEN // SIZE, 16),
        n_parallel=st.integers(1, 5),
        max_rows=st.integers(4, 12),
        max_logit_rows=st.integers(1, 6),
    )
    def start(self, n_pages: int, n_parallel: int, max_rows: int, max_logit_rows: int) -> None:
        self.max_rows, self.max_logit_rows = max_rows, min(max_rows, max_logit_rows)
        self.n_parallel = n_parallel
        self.cache = PrefixCache(n_pages, SIZE)
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
        self.requests.append(ScheduledRequest(CachedText(token_ids), self.n_arrived, len(token_ids), embeds))
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
            assert len(text.pages) * SIZE >= text.n_computed + n + len(chunk.draft_ids)
            assert chunk.wants_logits == (n == text.n_pending and not chunk.request.is_whole)

    def end(self, request: ScheduledRequest) -> None:
        self.requests.remove(request)
        self.scheduler.remove(request)
        assert request.text.pages == []

    @invariant()
    def every_page_is_accounted_for(self) -> None:
        if not hasattr(self, "jobs"):
            return
        pool = self.cache.pool
        assert pool.n_used == len({page for request in self.requests for page in request.text.pages})
        assert pool.n_used + pool.n_kept + pool.n_blank == self.cache.n_pages
        assert len(self.scheduler.running) <= self.n_parallel
        held = [*self.scheduler.running, *self.scheduler.waiting]
        assert [request.arrival for request in held] == sorted(request.arrival for request in self.requests)

    def teardown(self) -> None:
        if not hasattr(self, "jobs"):
            return
        for request in list(self.requests):
            self.end(request)
        assert self.cache.pool.n_used == 0


AnySchedule.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestAnySchedule = AnySchedule.TestCase


def scheduler_of(n_pages: int = 64, max_rows: int = 16) -> Scheduler:
    cache = PrefixCache(n_pages, SIZE)
    return Scheduler(cache, StepPace(max_rows), n_parallel=4, max_rows=max_rows, max_logit_rows=8)


def no_guess(request: ScheduledRequest, n_used: int, n_most: int) -> tuple[int, ...]:
    return ()


def test_a_short_prompt_passes_a_long_one_which_still_gets_half() -> None:
    scheduler = scheduler_of()
    long = ScheduledRequest(CachedText(list(range(100, 180))), 1, 80)
    short = ScheduledRequest(CachedText([7, 8, 9]), 2, 3)
    middle = ScheduledRequest(CachedText(list(range(40))), 3, 40)
    for request in (long, middle, short):
        scheduler.add(request)
    rows = {id(chunk.request): chunk.n_rows for chunk in scheduler.next_step(no_guess)}
    assert rows == {id(long): 8, id(short): 3, id(middle): 5}


def test_a_prompt_waits_for_the_pages_that_another_is_computing() -> None:
    scheduler = scheduler_of()
    first = ScheduledRequest(CachedText([*range(40), 1]), 1, 41)
    second = ScheduledRequest(CachedText([*range(40), 2]), 2, 41)
    for request in (first, second):
        scheduler.add(request)
    assert [(chunk.request, chunk.n_rows) for chunk in scheduler.next_step(no_guess)] == [(first, 16)]


def test_who_does_not_fit_waits_and_whoever_comes_later_waits_behind() -> None:
    scheduler = scheduler_of(n_pages=8)
    requests = [
        ScheduledRequest(CachedText([n] * length), n, length) for n, length in ((1, 20), (2, 20), (3, 1))
    ]
    for request in requests:
        scheduler.add(request)
    scheduler.next_step(no_guess)
    assert scheduler.running == requests[:1]
    assert list(scheduler.waiting) == requests[1:]
