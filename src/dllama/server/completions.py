"""POST /v1/completions: text that goes on."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import AsyncIterator, Sequence

from starlette.requests import Request
from starlette.responses import Response

from dllama.engine import (
    Finished,
    GenerationOptions,
    PromptProgress,
    TextDelta,
    Ticket,
    TokenConstraint,
    TokenInfo,
)
from dllama.server.admission import kept, prepared
from dllama.server.answer_schema import AnswerSchema, answer_schema
from dllama.server.api import Api, Stamp
from dllama.server.choices import ChoiceRequest, ChoiceStream
from dllama.server.http import Comment, EventStream, json_response, until_disconnect
from dllama.server.inputs import Text, each_text, ids_of
from dllama.server.logprobs import completion_logprobs
from dllama.server.one_answer import one_answer
from dllama.server.options import generation_options
from dllama.server.progress import prompt_comment
from dllama.server.request_log import count_tokens
from dllama.server.requests import CompletionRequest
from dllama.server.responses import Completion, CompletionChoice, CompletionLogprobs, Usage
from dllama.server.served import ServedModel
from dllama.server.tools import schema_constraints
from dllama.server.usage import usage_of

_MAX_TOKENS = 16
"""Tokens for a request that names no limit, as at OpenAI."""


async def complete(api: Api, request: Request, body: CompletionRequest) -> Response:
    served = api.model(body.model)
    texts, n_choices = each_text(body.prompt), body.n or 1
    n_texts = len(texts) * n_choices
    places, (prompts, schema) = await prepared(api, request, served, n_texts, _prepare, served, body, texts)
    with kept(places):
        constraints = await until_disconnect(request, schema_constraints(schema, served, n_texts), api.ending)
        if body.echo and body.logprobs is not None:
            scoring = _scored(served, prompts, body.logprobs, places[0])
            prompts = await until_disconnect(request, scoring, api.ending)
        asked = [(prompt, choice) for prompt in prompts for choice in range(n_choices)]
        requests = [
            ChoiceRequest(prompt.ids, _options(api, body, choice, constraint))
            for (prompt, choice), constraint in zip(asked, constraints, strict=True)
        ]
    stream = ChoiceStream(served.service, requests, places, api.metrics.first_token, api.ending)
    count_tokens(request, stream.tokens)
    answer = _Answer(stream, body, api.stamp("cmpl"), [prompt for prompt, _ in asked])
    if body.stream:
        return EventStream(answer.chunks(), answer.close)
    try:
        return json_response(await until_disconnect(request, answer.whole(), api.ending))
    finally:
        answer.close()


@dataclasses.dataclass(frozen=True)
class _Prompt:
    """`shown` is what stands before each of its texts, `scores` are of its tokens where both are asked for."""

    ids: list[int]
    shown: str
    scores: tuple[TokenInfo, ...] = ()


def _prepare(
    served: ServedModel, body: CompletionRequest, texts: Sequence[Text]
) -> tuple[list[_Prompt], AnswerSchema | None]:
    """The prompts, and what their texts are to follow."""
    schema = answer_schema(body)
    prompts = []
    for text in texts:
        # First: the text may be too long for all else.
        ids = ids_of(text, served, "prompt", body.parse_special)
        shown = "" if not body.echo else text if isinstance(text, str) else served.tokenizer.decode(text)
        prompts.append(_Prompt(ids, shown))
    return prompts, schema


async def _scored(
    served: ServedModel, prompts: Sequence[_Prompt], n_top: int, place: Ticket
) -> list[_Prompt]:
    """With log-probabilities, one prompt after the other in the same place."""
    service, scored = served.service, []
    for prompt in prompts:
        name = served.tokenizer.token_bytes(prompt.ids[0])
        is_shown = prompt.shown.encode().startswith(name)  # not so the model's first token, put before a text
        first = TokenInfo(prompt.ids[0], name if is_shown else b"", math.nan, ())
        infos: list[TokenInfo] = []
        if len(prompt.ids) > 1:
            infos = await one_answer(functools.partial(service.score, prompt.ids, n_top, ticket=place))
        scored.append(dataclasses.replace(prompt, scores=(first, *infos)))
    return scored


def _options(
    api: Api, body: CompletionRequest, choice: int, constraint: TokenConstraint | None
) -> GenerationOptions:
    return generation_options(
        body,
        api.settings.sampling,
        choice=choice,
        max_tokens=_MAX_TOKENS if body.max_tokens is None else body.max_tokens,
        n_logprobs=body.logprobs,
        constraint=constraint,
        continues=True,
    )


class _Answer:
    """All choices of one request, whole or as chunks."""

    def __init__(
        self, stream: ChoiceStream, body: CompletionRequest, stamp: Stamp, prompts: Sequence[_Prompt]
    ) -> None:
        self._stream = stream
        self._body = body
        self._stamp = stamp
        self._prompts = prompts
        self._ends: list[Finished | None] = [None] * len(prompts)
        self.close = stream.close

    async def whole(self) -> Completion:
        texts: list[list[str]] = [[prompt.shown] for prompt in self._prompts]
        tokens: list[list[TokenInfo]] = [list(prompt.scores) for prompt in self._prompts]
        async for index, event in self._stream.events():
            if isinstance(event, TextDelta):
                texts[index].append(event.text)
                tokens[index].extend(event.tokens)
            elif isinstance(event, Finished):
                self._ends[index] = event
        choices = [
            self._choice(index, "".join(texts[index]), tokens[index], 0, end)
            for index, end in enumerate(self._ends)
        ]
        return self._completion(choices, self._usage())

    async def chunks(self) -> AsyncIterator[str | Comment]:
        """The data of each event; log-probabilities come with the text of their tokens."""
        waiting: list[list[TokenInfo]] = [[] for _ in self._prompts]
        lengths = [len(prompt.shown) for prompt in self._prompts]
        for index, prompt in enumerate(self._prompts):
            if prompt.shown:
                yield self._chunk([self._choice(index, prompt.shown, prompt.scores, 0, None)])
        async for index, event in self._stream.events():
            text, end = "", None
            if isinstance(event, PromptProgress):
                yield prompt_comment(event)
            elif isinstance(event, TextDelta):
                text = event.text
                waiting[index].extend(event.tokens)
            elif isinstance(event, Finished):
                self._ends[index] = end = event
            if text or end:
                yield self._chunk([self._choice(index, text, waiting[index], lengths[index], end)])
                lengths[index] += len(text)
                waiting[index].clear()
        if self._body.include_usage:
            yield self._chunk([], self._usage())

    def _choice(
        self, index: int, text: str, tokens: Sequence[TokenInfo], offset: int, end: Finished | None
    ) -> CompletionChoice:
        logprobs: CompletionLogprobs | None = None
        if self._body.logprobs is not None:
            logprobs = completion_logprobs(tokens, offset)
        return CompletionChoice(
            index=index, text=text, logprobs=logprobs, finish_reason=end.reason if end else None
        )

    def _completion(self, choices: list[CompletionChoice], usage: Usage | None) -> Completion:
        return Completion(**vars(self._stamp), choices=choices, usage=usage)

    def _chunk(self, choices: list[CompletionChoice], usage: Usage | None = None) -> str:
        exclude = None if self._body.include_usage else {"usage"}
        return self._completion(choices, usage).model_dump_json(exclude=exclude)

    def _usage(self) -> Usage:
        return usage_of(self._ends, self._body.n or 1)
