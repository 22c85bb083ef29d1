"""A stream is never long without a byte: comments say how far the prompt is."""

from __future__ import annotations

import asyncio
import itertools
import re
from collections.abc import AsyncIterator, Callable, Sequence
from typing import cast

from dllama.engine import (
    EngineService,
    Event,
    Finished,
    GenerationOptions,
    PromptProgress,
    TextDelta,
    Ticket,
)
from dllama.engine.request import OnEvent
from dllama.server.choices import ChoiceRequest, ChoiceStream
from dllama.server.http import Comment, EventStream
from dllama.server.progress import NEWS_S, SILENCE_S, PromptWatch, prompt_comment
from support.api_process import ApiProcess, ask

END = Finished(reason="stop", n_prompt=1, n_cached=0, n_completion=1)


def test_news_are_told_twice_a_second_and_silence_is_broken() -> None:
    watch = PromptWatch([7500], 0.0)
    assert watch.due(NEWS_S / 2) is None
    assert watch.due(NEWS_S) == PromptProgress(0, 7500)
    watch.update(0, PromptProgress(512, 7500))
    assert watch.due(1.5 * NEWS_S) is None
    assert watch.due(2 * NEWS_S) == PromptProgress(512, 7500)
    assert watch.due(2 * NEWS_S + SILENCE_S - 0.01) is None
    assert watch.due(2 * NEWS_S + SILENCE_S) == PromptProgress(512, 7500)


def test_several_prompts_count_together() -> None:
    watch = PromptWatch([10, 30], 0.0)
    watch.update(1, PromptProgress(8, 30))
    watch.finish(0, 0.0, is_shown=False)
    assert watch.due(NEWS_S) == PromptProgress(18, 40)
    watch.finish(1, 1.0, is_shown=True)
    assert watch.due(1.0 + NEWS_S / 2) is None  # text is a sign of life


class Script:
    """An EngineService whose every request gets these events at once."""

    def __init__(self, events: Sequence[Event]) -> None:
        self._events = events

    def submit(
        self, prompt_ids: Sequence[int], options: GenerationOptions, on_event: OnEvent, ticket: Ticket
    ) -> Ticket:
        for event in self._events:
            on_event(event)
        return ticket

    def cancel(self, ticket: Ticket) -> None:
        """As nothing is kept, nothing is freed."""


async def frames(events: Sequence[Event], clock: Callable[[], float]) -> list[str]:
    """What a stream of one request's events, shown as texts, sends."""
    requests = [ChoiceRequest(range(20), GenerationOptions())]
    service = cast("EngineService", Script(events))
    stream = ChoiceStream(
        service, requests, [Ticket(service, 0.0)], lambda seconds: None, asyncio.Event(), clock
    )

    async def shown() -> AsyncIterator[str | Comment]:
        async for _, event in stream.events():
            if isinstance(event, PromptProgress):
                yield prompt_comment(event)
            elif isinstance(event, TextDelta) and event.text:
                yield event.text

    return [str(part) async for part in EventStream(shown(), stream.close).body_iterator]


def test_comments_stand_between_the_events_of_a_stream() -> None:
    """Before the text, as its prompt is computed, and where a text pauses."""
    seconds = itertools.count(0.0, SILENCE_S)
    events = [
        PromptProgress(4, 20),
        PromptProgress(16, 20),
        TextDelta("a", ()),
        TextDelta("", ()),
        TextDelta("b", ()),
        END,
    ]
    assert asyncio.run(frames(events, lambda: next(seconds))) == [
        ": prompt 4/20\n\n",
        ": prompt 16/20\n\n",
        "data: a\n\n",
        ": prompt 20/20\n\n",
        "data: b\n\n",
        ": prompt 20/20\n\n",
        "data: [DONE]\n\n",
    ]


def test_a_long_prompt_of_a_real_server(api: ApiProcess) -> None:
    """The comments of a request that waits behind others: it hears something while nothing is computed for it."""
    endless = ask("Tell me a story.", ignore_eos=True, stream=True, n=8)
    with api.post("/v1/chat/completions", endless, stream=True) as ahead:
        assert ahead.status_code == 200
        with api.post("/v1/completions", {"prompt": "a fox " * 300, "stream": True}, stream=True) as waiting:
            first = next(line for line in waiting.iter_lines() if line)
    assert re.fullmatch(rb": prompt 0/\d+", first)
