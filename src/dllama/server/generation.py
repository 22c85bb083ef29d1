"""From the engine's thread to the event loop: the choices of one request as one asynchronous stream of events."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import time
from collections.abc import AsyncIterator, Callable, Sequence

from dllama.engine import EngineService, Event, Failed, Finished, GenerationOptions, TextDelta, Ticket


@dataclasses.dataclass(frozen=True)
class Job:
    """One text to generate."""

    prompt_ids: Sequence[int]
    options: GenerationOptions


class Generation:
    """Several texts under way; `close` frees what they hold in the engine, whatever became of them."""

    def __init__(
        self, service: EngineService, jobs: Sequence[Job], on_first: Callable[[float], None]
    ) -> None:
        """Starts all jobs; `on_first` gets the seconds to the first token of any.

        Raises what EngineService.submit raises, with none of them started.
        """
        self._on_first = on_first
        self._start = time.perf_counter()
        self._loop = asyncio.get_running_loop()
        self._events: asyncio.Queue[tuple[int, Event]] = asyncio.Queue()
        self._n_open = len(jobs)
        self._tickets: list[Ticket] = []
        try:
            for index, job in enumerate(jobs):
                self._tickets.append(self._submit(service, index, job))
        except BaseException:
            self.close()
            raise

    async def events(self) -> AsyncIterator[tuple[int, Event]]:
        """(index of the job, event), until every job has ended. Raises the error of the first that fails."""
        is_first = True
        while self._n_open:
            index, event = await self._events.get()
            if is_first and isinstance(event, TextDelta):
                self._on_first(time.perf_counter() - self._start)
                is_first = False
            if isinstance(event, Failed):
                raise event.error
            if isinstance(event, Finished):
                self._n_open -= 1
            yield index, event

    def close(self) -> None:
        for ticket in self._tickets:
            ticket.cancel()

    def _submit(self, service: EngineService, index: int, job: Job) -> Ticket:
        def on_event(event: Event) -> None:
            with contextlib.suppress(RuntimeError):  # the loop has ended: so has whoever asked
                self._loop.call_soon_threadsafe(self._events.put_nowait, (index, event))

        return service.submit(job.prompt_ids, job.options, on_event)
