"""The engine in its thread: many callers, cancels at any time, and an end that everybody hears of."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator

import numpy as np
import pytest

from dllama.engine import (
    EngineService,
    Event,
    Failed,
    Finished,
    GenerationOptions,
    SamplingOptions,
    TextDelta,
)
from dllama.errors import ContextFullError, DllamaError, PeerLostError, QueueFullError, UsageError
from dllama.model import Candidates, StepBatch
from dllama.tokenizer import load_tokenizer
from support.fake_executor import FakeExecutor
from support.processes import DEMO_MODEL, wait_until
from support.slow_grammar import SlowGrammar

TOKENIZER = load_tokenizer(DEMO_MODEL)
VOCAB = TOKENIZER.vocab_size
TIMEOUT_S = 30.0


class GatedExecutor(FakeExecutor):
    """Computes a step whenever the test lets it."""

    def __init__(self) -> None:
        super().__init__(lambda text: 400 + len(text), vocab_size=VOCAB, n_pages=16)
        self.entered: queue.SimpleQueue[None] = queue.SimpleQueue()
        self.gate = threading.Semaphore(0)
        self.error: Exception | None = None
        self.lost_between_steps: Exception | None = None

    def check(self) -> None:
        if self.lost_between_steps:
            raise self.lost_between_steps

    def step(self, batch: StepBatch) -> Candidates:
        self.entered.put(None)
        assert self.gate.acquire(timeout=TIMEOUT_S)
        if self.error:
            raise self.error
        return super().step(batch)

    def open(self) -> None:
        self.gate.release(100_000)


Inbox = queue.SimpleQueue[Event]


def options(max_tokens: int = 5) -> GenerationOptions:
    return GenerationOptions(sampling=SamplingOptions(temperature=0), max_tokens=max_tokens)


def to_the_end(inbox: Inbox) -> list[Event]:
    events = []
    while not events or isinstance(events[-1], TextDelta):
        events.append(inbox.get(timeout=TIMEOUT_S))
    return events


@pytest.fixture
def executor() -> GatedExecutor:
    return GatedExecutor()


@pytest.fixture
def service(executor: GatedExecutor) -> Iterator[EngineService]:
    service = EngineService(executor, TOKENIZER, n_parallel=2, max_queued=1, max_seq_len=32)
    yield service
    executor.open()
    service.close()


def test_requests_of_several_threads(executor: GatedExecutor, service: EngineService) -> None:
    executor.open()
    results: dict[int, list[Event]] = {}

    def ask(number: int) -> None:
        inbox: Inbox = queue.SimpleQueue()
        service.submit([number], options(), inbox.put)
        results[number] = to_the_end(inbox)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(1, 4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(TIMEOUT_S)
    for events in results.values():
        ids = [token.token_id for event in events if isinstance(event, TextDelta) for token in event.tokens]
        assert ids == [401, 402, 403, 404, 405]
        assert isinstance(events[-1], Finished)
    assert sorted(results) == [1, 2, 3]


def test_a_full_queue_says_when_to_come_back(executor: GatedExecutor, service: EngineService) -> None:
    inboxes = [queue.SimpleQueue[Event]() for _ in range(3)]
    for number, inbox in enumerate(inboxes):
        service.submit([1 + number], options(), inbox.put)
    with pytest.raises(QueueFullError, match="2 requests are being answered and 1 wait") as caught:
        service.submit([1], options(), inboxes[0].put)
    assert caught.value.retry_after_s >= 1
    executor.open()
    for inbox in inboxes:
        assert isinstance(to_the_end(inbox)[-1], Finished)
    service.submit([1], options(), inboxes[0].put)
    assert isinstance(to_the_end(inboxes[0])[-1], Finished)


def test_too_long_a_prompt_is_refused_at_once(service: EngineService) -> None:
    with pytest.raises(ContextFullError, match="40 tokens and the context 32"):
        service.submit([1] * 40, options(), lambda event: None)
    with pytest.raises(ContextFullError):
        service.embed([1] * 40, lambda result: None)


def test_a_cancelled_request_gets_no_more_events_and_frees_its_place(
    executor: GatedExecutor, service: EngineService
) -> None:
    events: list[Event] = []
    inbox: Inbox = queue.SimpleQueue()
    tickets = [service.submit([n], options(20), events.append) for n in (1, 2, 3)]
    executor.entered.get(timeout=TIMEOUT_S)  # a step is under way
    for ticket in tickets:
        ticket.cancel()
        ticket.cancel()
    service.submit([4], options(), inbox.put)
    executor.open()
    assert isinstance(to_the_end(inbox)[-1], Finished)
    assert events == []
    stats = service.stats()
    assert (stats.n_running, stats.n_queued, stats.n_pages_used) == (0, 0, 0)


def test_a_request_may_be_cancelled_from_its_own_event(
    executor: GatedExecutor, service: EngineService
) -> None:
    executor.open()
    seen: Inbox = queue.SimpleQueue()
    ready = threading.Event()

    def on_event(event: Event) -> None:
        ready.wait(TIMEOUT_S)
        ticket.cancel()
        seen.put(event)

    ticket = service.submit([1], options(), on_event)
    ready.set()
    assert isinstance(seen.get(timeout=TIMEOUT_S), TextDelta)
    inbox: Inbox = queue.SimpleQueue()
    service.submit([2], options(), inbox.put)
    to_the_end(inbox)
    assert seen.empty()


def test_a_lost_node_ends_all_requests_and_later_ones(
    executor: GatedExecutor, service: EngineService
) -> None:
    inboxes = [queue.SimpleQueue[Event]() for _ in range(3)]
    for number, inbox in enumerate(inboxes):
        service.submit([1 + number], options(), inbox.put)
    executor.error = PeerLostError("worker 10.0.0.2:9998 is gone")
    executor.open()
    for inbox in inboxes:
        (failed,) = to_the_end(inbox)
        assert isinstance(failed, Failed)
        assert isinstance(failed.error, PeerLostError)
        assert str(failed.error) == str(executor.error)
    assert str(service.failure) == str(executor.error)
    with pytest.raises(PeerLostError):
        service.submit([1], options(), inboxes[0].put)


def test_a_node_that_is_lost_while_nobody_asks(executor: GatedExecutor, service: EngineService) -> None:
    assert service.failure is None
    executor.lost_between_steps = lost = PeerLostError("lost worker 1")
    wait_until(lambda: str(service.failure) == str(lost))
    with pytest.raises(PeerLostError, match="lost worker 1"):
        service.submit([5, 6], options(), print)


def test_a_grammar_that_is_ready_wakes_the_engine(executor: GatedExecutor, service: EngineService) -> None:
    executor.open()
    grammar, inbox = SlowGrammar(VOCAB, 2), queue.SimpleQueue[Event]()
    asked = GenerationOptions(sampling=SamplingOptions(temperature=0), constraint=grammar)
    service.submit([1, 2], asked, inbox.put)
    for n_asked in (1, 2, 3):
        wait_until(lambda n=n_asked: len(grammar.asked) == n)  # type: ignore[misc]
        grammar.answer()
    *texts, end = to_the_end(inbox)
    assert [token.token_id for event in texts for token in event.tokens] == [400, 400]  # type: ignore[union-attr]
    assert isinstance(end, Finished)
    assert end.reason == "stop"


def test_closing_ends_what_is_under_way(executor: GatedExecutor) -> None:
    service = EngineService(executor, TOKENIZER, n_parallel=1, max_queued=1, max_seq_len=32)
    inboxes = [queue.SimpleQueue[Event]() for _ in range(2)]
    for inbox in inboxes:
        service.submit([1], options(), inbox.put)
    executor.entered.get(timeout=TIMEOUT_S)
    closing = threading.Thread(target=service.close)
    closing.start()
    executor.open()
    closing.join(TIMEOUT_S)
    assert not closing.is_alive()
    for inbox in inboxes:
        end = to_the_end(inbox)[-1]
        assert isinstance(end, Failed)
        assert "closed" in str(end.error)
    with pytest.raises(DllamaError, match="closed"):
        service.submit([1], options(), inboxes[0].put)


def test_embeddings(executor: GatedExecutor, service: EngineService) -> None:
    executor.open()
    results: queue.SimpleQueue[object] = queue.SimpleQueue()
    service.embed([1, 2, 3], results.put)
    vector = results.get(timeout=TIMEOUT_S)
    assert isinstance(vector, np.ndarray)
    assert np.linalg.norm(vector) == pytest.approx(1, rel=1e-6)


def test_places_are_reserved_before_there_is_a_prompt(
    executor: GatedExecutor, service: EngineService
) -> None:
    """They count as taken, are given back by a cancel or by the end of the text, and none is taken by a refusal."""
    executor.open()
    with pytest.raises(UsageError, match="4 texts at once are more than the 3"):
        service.reserve(4)
    first, second = service.reserve(2)
    with pytest.raises(QueueFullError):
        service.reserve(2)
    (third,) = service.reserve()
    with pytest.raises(QueueFullError):
        service.submit([1], options(), lambda event: None)
    third.cancel()
    inbox: Inbox = queue.SimpleQueue()
    with pytest.raises(ContextFullError):
        service.submit([1] * 40, options(), inbox.put, first)
    assert service.submit([1], options(), inbox.put, first) is first
    assert isinstance(to_the_end(inbox)[-1], Finished)
    second.cancel()
    assert len(service.reserve(3)) == 3


def test_a_reserved_place_is_of_no_use_once_the_engine_has_ended(
    executor: GatedExecutor, service: EngineService
) -> None:
    (place,) = service.reserve()
    executor.error = PeerLostError("lost worker x")
    executor.open()
    inbox: Inbox = queue.SimpleQueue()
    service.submit([1], options(), inbox.put)
    assert isinstance(to_the_end(inbox)[-1], Failed)
    with pytest.raises(PeerLostError):
        service.submit([1], options(), inbox.put, place)


def test_embeddings_keep_their_place_until_it_is_cancelled(
    executor: GatedExecutor, service: EngineService
) -> None:
    executor.open()
    place, *_ = service.reserve(3)
    results: queue.SimpleQueue[object] = queue.SimpleQueue()
    for _ in range(2):
        service.embed([1, 2, 3], results.put, place)
        assert isinstance(results.get(timeout=TIMEOUT_S), np.ndarray)
        with pytest.raises(QueueFullError):
            service.reserve()
    place.cancel()
    assert service.reserve()
