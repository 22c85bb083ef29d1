"""From the engine's thread to the event loop: the choices of one request as one asynchronous stream of events."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import time
from collections.abc import AsyncIterator, Callable, Sequence

from dllama.engine import (
    EngineService,
    Event,
    Failed,
    Finished,
    GenerationOptions,
    PromptProgress,
    TextDelta,
    Ticket,
)
from dllama.errors import Failure
from dllama.server.errors import server_ends
from dllama.server.progress import NEWS_S, PromptWatch
from dllama.server.request_log import TokenCount


@dataclasses.dataclass(frozen=True)
class ChoiceRequest:
    """One text to generate."""

    prompt_ids: Sequence[int]
    options: GenerationOptions


class ChoiceStream:
    """Several texts under way; `close` frees what they hold in the engine, whatever became of them. `tokens` are those
    of the prompts, each once, and those that have come of the texts."""

    def __init__(
        self,
        service: EngineService,
        requests: Sequence[ChoiceRequest],
        places: Sequence[Ticket],
        on_first: Callable[[float], None],
        ending: asyncio.Event,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """Starts all requests, each in its reserved place; `on_first` gets the seconds to the first token of any.
        `ending` tells that the server ends.

        Raises what EngineService.submit raises, with none of them started and all places given back.
        """
        self._on_first, self._ending, self._clock = on_first, ending, clock
        self._start = clock()
        self._loop = asyncio.get_running_loop()
        self._events: asyncio.Queue[tuple[int, Event]] = asyncio.Queue()
        self._watch = PromptWatch([len(request.prompt_ids) for request in requests], self._start)
        self._n_open = len(requests)
        prompts = {id(request.prompt_ids): request.prompt_ids for request in requests}
        self.tokens = TokenCount(sum(map(len, prompts.values())))
        self._places = places
        try:
            for index, (request, place) in enumerate(zip(requests, places, strict=True)):
                self._submit(service, index, request, place)
        except BaseException:
            self.close()
            raise

    async def events(self) -> AsyncIterator[tuple[int, Event]]:
        """(index of the choice, event), until every one has ended. Raises the error of the first that fails.

        PromptProgress is that of all choices together, told often enough that a client is never long without a word.
        """
        is_first = True
        while self._n_open:
            index, event = await self._next()
            if self._ending.is_set():
                raise server_ends()
            now = self._clock()
            if isinstance(event, PromptProgress):
                self._watch.update(index, event)
            elif isinstance(event, TextDelta):
                self._watch.finish(index, now, is_shown=bool(event.text))
                if is_first:
                    self._on_first(now - self._start)
                is_first = False
                self.tokens.n_completion += len(event.tokens)
            if progress := self._watch.due(now):
                yield 0, progress
            if event is None or isinstance(event, PromptProgress):
                continue
            if isinstance(event, Failed):
                raise Failure.of(event.error).error()  # one that holds no event, which would hold it
            if isinstance(event, Finished):
                self._n_open -= 1
                self.tokens.n_completion += event.end_id is not None
            yield index, event

    def close(self) -> None:
        for place in self._places:
            place.cancel()

    async def _next(self) -> tuple[int, Event | None]:
        """The next event; (0, None) when nothing comes for a while."""
        if not self._events.empty():
            return self._events.get_nowait()
        try:
            async with asyncio.timeout(NEWS_S):
                return await self._events.get()
        except TimeoutError:
            return 0, None

    def _submit(self, service: EngineService, index: int, request: ChoiceRequest, place: Ticket) -> None:
        def on_event(event: Event) -> None:
            with contextlib.suppress(RuntimeError):  # the loop has ended: so has whoever asked
                self._loop.call_soon_threadsafe(self._events.put_nowait, (index, event))

        service.submit(request.prompt_ids, request.options, on_event, place)
