"""The engine in a thread of its own, for callers in any thread."""

from __future__ import annotations

import collections
import logging
import threading
import time
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from dllama.engine.engine import Engine
from dllama.engine.executor import Executor
from dllama.engine.request import Event, Failed, Finished, GenerationOptions, OnEvent, TokenInfo
from dllama.engine.scheduler import ScheduledRequest
from dllama.engine.stats import EngineStats
from dllama.engine.tasks import OnEmbedding, OnScore
from dllama.errors import DllamaError, Failure, QueueFullError, UsageError, let_go_of_frames
from dllama.tokenizer import Tokenizer

_log = logging.getLogger(__name__)

_LEAST_WAIT_S = 1.0
"""Nobody is told to come back sooner."""

_LOOK_S = 0.25
"""How often an engine without work looks whether all nodes are still there."""

_NEW_WEIGHT = 0.2
"""Weight of a request that has ended, in the running mean of how long they take."""


class Ticket:
    """A request that was taken."""

    def __init__(self, service: EngineService, taken_s: float) -> None:
        self._service = service
        self.taken_s = taken_s
        self.request: ScheduledRequest | None = None  # once the engine's thread has seen it

    def cancel(self) -> None:
        """Frees what the request holds before the next step; no event begins after this returns.

        May be called at any time, from any thread, more than once, and from within an event.
        """
        self._service.cancel(self)


class EngineService:
    """Runs an Engine as long as there is work, and waits when there is none."""

    def __init__(
        self,
        executor: Executor,
        tokenizer: Tokenizer,
        *,
        n_parallel: int,
        max_queued: int,
        max_seq_len: int,
        speculate: int = 0,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """`n_parallel` requests share steps, `max_queued` more may wait."""
        self._executor = executor
        self._engine = Engine(
            executor,
            tokenizer,
            max_seq_len=max_seq_len,
            n_parallel=n_parallel,
            speculate=speculate,
            clock=clock,
        )
        self._is_due = False  # whether the next step may have something to compute
        self.n_parallel, self._n_places, self._clock = n_parallel, n_parallel + max_queued, clock
        self._changed = threading.Condition(threading.RLock())
        self._orders: collections.deque[Callable[[], None]] = collections.deque()
        self._live: set[Ticket] = set()
        self._request_s = _LEAST_WAIT_S
        self._end: Failure[DllamaError] | None = None
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    @property
    def failure(self) -> Failure[DllamaError] | None:
        """Why nothing is computed any more; None as long as requests are taken."""
        return self._end

    def reserve(self, n: int = 1) -> list[Ticket]:
        """Places for `n` requests whose prompts are still to be made, so that the work of making them is not in vain.

        Each is given back by the end of what is submitted with it, or by its `cancel`. Raises, with nothing taken:
        UsageError for more than there can ever be, QueueFullError, or what ended the engine.
        """
        if n > self._n_places:
            raise UsageError(
                f"{n} texts at once are more than the {self._n_places} that can run or wait here"
            )
        with self._changed:
            self._check_room(n)
            tickets = [Ticket(self, self._clock()) for _ in range(n)]
            self._live.update(tickets)
        return tickets

    def submit(
        self,
        prompt_ids: Sequence[int],
        options: GenerationOptions,
        on_event: OnEvent,
        ticket: Ticket | None = None,
    ) -> Ticket:
        """`on_event` is called from the engine's thread and should return at once. `ticket`: a reserved place.

        Raises, with nothing taken: ContextFullError, UsageError, QueueFullError, or what ended the engine.
        """
        self._engine.check(prompt_ids, options)

        def pass_on(event: Event) -> None:
            self._pass_on(place, lambda: on_event(event), is_last=isinstance(event, Finished | Failed))

        def fail(error: DllamaError) -> None:
            pass_on(Failed(error))

        with self._changed:
            place = self._place(ticket)
            self._order(place, lambda: self._engine.submit(prompt_ids, options, pass_on), fail)
        return place

    def embed(self, prompt_ids: Sequence[int], on_done: OnEmbedding, ticket: Ticket | None = None) -> Ticket:
        """See Engine.embed; otherwise like submit, but that the place is kept until it is cancelled: for more texts."""
        self._engine.check(prompt_ids, None)

        def pass_on(result: NDArray[np.float32] | DllamaError) -> None:
            self._pass_on(place, lambda: on_done(result), is_last=False)

        with self._changed:
            place = self._place(ticket)
            self._order(place, lambda: self._engine.embed(prompt_ids, pass_on), pass_on)
        return place

    def score(
        self, prompt_ids: Sequence[int], n_top: int, on_done: OnScore, ticket: Ticket | None = None
    ) -> Ticket:
        """See Engine.score; otherwise like embed."""
        self._engine.check(prompt_ids, None)

        def pass_on(result: list[TokenInfo] | DllamaError) -> None:
            self._pass_on(place, lambda: on_done(result), is_last=False)

        with self._changed:
            place = self._place(ticket)
            self._order(place, lambda: self._engine.score(prompt_ids, n_top, pass_on), pass_on)
        return place

    def cancel(self, ticket: Ticket) -> None:
        """See Ticket.cancel."""
        with self._changed:
            if ticket in self._live:
                self._live.remove(ticket)
                self._orders.append(lambda: self._engine.cancel(ticket.request) if ticket.request else None)
                self._changed.notify()

    def stats(self) -> EngineStats:
        """As of now."""
        return self._engine.stats()

    def close(self) -> None:
        """Ends the thread after the step under way; requests that are not done get Failed."""
        with self._changed:
            self._end = self._end or Failure.of(DllamaError("the engine was closed"))
            self._changed.notify()
        self._thread.join()

    def _place(self, reserved: Ticket | None) -> Ticket:
        """Where a request goes; the caller has the lock. Raises when there is no room, or the engine has ended."""
        if reserved is None:
            return self.reserve()[0]
        if self._end is not None:
            raise self._end.error()
        return reserved

    def _check_room(self, n: int) -> None:
        if self._end is not None:
            raise self._end.error()
        if len(self._live) + n > self._n_places:
            n_waiting = self._n_places - self.n_parallel
            raise QueueFullError(
                f"{self.n_parallel} requests are being answered and {n_waiting} wait: try again later",
                max(_LEAST_WAIT_S, self._request_s / self.n_parallel),
            )

    def _order(
        self, ticket: Ticket, start: Callable[[], ScheduledRequest], fail: Callable[[DllamaError], None]
    ) -> None:
        """Lets the engine's thread begin with a request, unless it is cancelled before; the caller has the lock."""

        def begin() -> None:
            if ticket in self._live:
                try:
                    ticket.request = start()
                except Exception as error:
                    _log.exception("a request could not begin")
                    fail(DllamaError(f"the request could not begin: {type(error).__name__}: {error}"))

        self._orders.append(begin)
        self._changed.notify()

    def _pass_on(self, ticket: Ticket, event: Callable[[], None], *, is_last: bool) -> None:
        """Calls `event` unless the request was cancelled. Both hold the lock: once `cancel` has returned, no event of
        the request comes any more. `is_last`: the request has ended, and its place is free."""
        with self._changed:
            if ticket not in self._live:
                return
            if is_last:
                self._live.remove(ticket)
                self._request_s += _NEW_WEIGHT * (self._clock() - ticket.taken_s - self._request_s)
            event()

    def _run(self) -> None:
        """The engine's thread."""
        try:
            while self._end is None:
                with self._changed:
                    while not self._changed.wait_for(self._is_wanted, _LOOK_S):
                        self._executor.check()
                    orders, self._orders = self._orders, collections.deque()
                    self._is_due = False
                for order in orders:
                    order()
                if self._end is None and self._engine.step(self._wake) is not None:
                    self._wake()
        except DllamaError as error:
            self._end = Failure.of(error)
            let_go_of_frames(error)
        except Exception as error:
            _log.exception("the engine failed")
            self._end = Failure.of(DllamaError(f"the engine failed: {type(error).__name__}: {error}"))
            let_go_of_frames(error)
        self._give_up(self._end)

    def _is_wanted(self) -> bool:
        """Whether the engine's thread has something to do; the caller has the lock."""
        return bool(self._orders or self._is_due or self._end)

    def _wake(self) -> None:
        """Lets the engine's thread take a step."""
        with self._changed:
            self._is_due = True
            self._changed.notify()

    def _give_up(self, failure: Failure[DllamaError]) -> None:
        """Tells everybody who waits."""
        with self._changed:
            orders, self._orders = self._orders, collections.deque()
        for order in orders:
            order()
        self._engine.fail_all(failure)
