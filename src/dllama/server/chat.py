"""POST /v1/chat/completions."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator, Sequence

from starlette.requests import Request
from starlette.responses import Response

from dllama.answers.reasoning_output import Reasoning
from dllama.answers.tool_output import AnswerText, CallArguments, CallBegins
from dllama.engine import (
    Finished,
    GenerationOptions,
    PromptProgress,
    TextDelta,
    TokenConstraint,
    TokenInfo,
)
from dllama.server.admission import kept, prepared
from dllama.server.after_thought import after_thought
from dllama.server.answer_output import AnswerPart, answer_output
from dllama.server.api import Api, Stamp
from dllama.server.choices import ChoiceRequest, ChoiceStream
from dllama.server.errors import ApiError
from dllama.server.http import Comment, EventStream, json_response, until_disconnect
from dllama.server.logprobs import chat_logprobs
from dllama.server.options import generation_options
from dllama.server.progress import prompt_comment
from dllama.server.prompt import ChatPrompt, chat_prompt, chat_template
from dllama.server.request_log import count_tokens
from dllama.server.requests import ChatRequest
from dllama.server.responses import (
    ChatChoice,
    ChatChunk,
    ChatChunkChoice,
    ChatCompletion,
    ChatDelta,
    ChatMessage,
    FinishReason,
    FunctionCall,
    FunctionDelta,
    ToolCall,
    ToolCallDelta,
    Usage,
)
from dllama.server.served import ServedModel
from dllama.server.tools import AnswerForm, answer_form, new_call_id
from dllama.server.usage import usage_of


async def chat(api: Api, request: Request, body: ChatRequest) -> Response:
    if body.top_logprobs and not body.logprobs:
        raise ApiError("top_logprobs needs logprobs: true", param="top_logprobs")
    served = api.model(body.model)
    places, (form, prompt, grammar) = await prepared(
        api, request, served, body.n or 1, _prepare, served, body
    )
    with kept(places):
        constraints = await until_disconnect(
            request, form.constraints(served, grammar, body.n or 1), api.ending
        )
        requests = [
            ChoiceRequest(prompt.ids, _options(api, served, body, form, prompt, choice, constraint))
            for choice, constraint in enumerate(constraints)
        ]
    stream = ChoiceStream(served.service, requests, places, api.metrics.first_token, api.ending)
    count_tokens(request, stream.tokens)
    answer = _Answer(stream, body, api.stamp("chatcmpl"), form, prompt)
    if body.stream:
        return EventStream(answer.chunks(), answer.close)
    try:
        return json_response(await until_disconnect(request, answer.whole(), api.ending))
    finally:
        answer.close()


def _prepare(served: ServedModel, body: ChatRequest) -> tuple[AnswerForm, ChatPrompt, str | None]:
    """What the answer may look like, the prompt, and the grammar of what follows it."""
    form = answer_form(body, served)
    prompt = chat_prompt(
        served,
        body.messages,
        tools=form.tools,
        variables=body.chat_template_kwargs,
        add_generation_prompt=body.add_generation_prompt,
        continue_final_message=body.continue_final_message,
    )
    return form, prompt, form.grammar(served, prompt)


def _options(
    api: Api,
    served: ServedModel,
    body: ChatRequest,
    form: AnswerForm,
    prompt: ChatPrompt,
    choice: int,
    constraint: TokenConstraint | None,
) -> GenerationOptions:
    return generation_options(
        body,
        api.settings.chat_sampling,
        choice=choice,
        max_tokens=body.max_completion_tokens or body.max_tokens,
        n_logprobs=(body.top_logprobs or 0) if body.logprobs else None,
        constraint=after_thought(constraint, prompt, served),
        end_ids=chat_template(served).end_ids | prompt.ends(served.tokenizer),
        shown=form.shown(served) | prompt.marks(served.tokenizer),
        continues=bool(prompt.begun),
    )


class _Answer:
    """All choices of one request, whole or as chunks."""

    def __init__(
        self, stream: ChoiceStream, body: ChatRequest, stamp: Stamp, form: AnswerForm, prompt: ChatPrompt
    ) -> None:
        self._stream = stream
        self._body = body
        self._stamp = stamp
        self._choices = [
            _Choice(form, prompt, tells_thoughts=body.reasoning_format != "none") for _ in range(body.n or 1)
        ]
        self.close = stream.close

    async def whole(self) -> ChatCompletion:
        async for index, event in self._stream.events():
            choice = self._choices[index]
            if isinstance(event, TextDelta):
                choice.add(choice.parts_of(event))
                choice.tokens.extend(event.tokens)
            elif isinstance(event, Finished):
                choice.add(choice.end(event))
        return ChatCompletion(
            **vars(self._stamp),
            choices=[
                ChatChoice(
                    index=index,
                    message=choice.message,
                    logprobs=chat_logprobs(choice.tokens) if self._body.logprobs else None,
                    finish_reason=choice.finish_reason,
                )
                for index, choice in enumerate(self._choices)
            ],
            usage=self._usage(),
        )

    async def chunks(self) -> AsyncIterator[str | Comment]:
        """The data of each event; log-probabilities come with the text of their tokens."""
        for index in range(len(self._choices)):
            yield self._delta(index, ChatDelta(role="assistant", content=""))
        async for index, event in self._stream.events():
            choice = self._choices[index]
            if isinstance(event, PromptProgress):
                yield prompt_comment(event)
            elif isinstance(event, TextDelta):
                choice.tokens.extend(event.tokens)
                for part in choice.parts_of(event):
                    yield self._delta(index, choice.delta(part))
            elif isinstance(event, Finished):
                for part in choice.end(event):
                    yield self._delta(index, choice.delta(part))
                yield self._delta(index, ChatDelta(), choice.finish_reason)
        if self._body.include_usage:
            yield self._chunk([], self._usage())

    def _delta(self, index: int, delta: ChatDelta, reason: FinishReason | None = None) -> str:
        tokens, logprobs = self._choices[index].tokens, None
        if self._body.logprobs and tokens:
            logprobs = chat_logprobs(tokens)
        tokens.clear()
        return self._chunk(
            [ChatChunkChoice(index=index, delta=delta, logprobs=logprobs, finish_reason=reason)]
        )

    def _chunk(self, choices: Sequence[ChatChunkChoice], usage: Usage | None = None) -> str:
        chunk = ChatChunk(**vars(self._stamp), choices=list(choices), usage=usage)
        return chunk.model_dump_json(exclude=None if self._body.include_usage else {"usage"})

    def _usage(self) -> Usage:
        return usage_of([choice.finished for choice in self._choices], len(self._choices))


class _Choice:
    """What has come of one choice. `tokens` are those whose log-probabilities were not told yet."""

    def __init__(self, form: AnswerForm, prompt: ChatPrompt, *, tells_thoughts: bool) -> None:
        self._form = form
        functions = [tool.function for tool in form.offered]
        self._output = answer_output(prompt, form.tool_format, functions, tells_thoughts=tells_thoughts)
        self._text: list[str] = []
        self._thought: list[str] = []
        self._calls: list[tuple[CallBegins, list[str]]] = []
        self.tokens: list[TokenInfo] = []
        self.finished: Finished | None = None

    def parts_of(self, delta: TextDelta) -> Iterator[AnswerPart]:
        return self._output.feed(delta.text)

    def end(self, finished: Finished) -> Iterator[AnswerPart]:
        self.finished = finished
        return self._output.end()

    def add(self, parts: Iterable[AnswerPart]) -> None:
        """Keeps them for `message`."""
        for part in parts:
            if isinstance(part, Reasoning):
                self._thought.append(part.text)
            elif isinstance(part, AnswerText):
                self._text.append(part.text)
            elif isinstance(part, CallBegins):
                self._calls.append((part, []))
            else:
                self._calls[part.index][1].append(part.text)

    @property
    def message(self) -> ChatMessage:
        calls = [
            ToolCall(
                id=self._id_of(call), function=FunctionCall(name=call.name, arguments="".join(arguments))
            )
            for call, arguments in self._calls
        ]
        text = "".join(self._text)
        return ChatMessage(
            content=text if text or not calls else None,
            reasoning_content="".join(self._thought) or None,
            tool_calls=calls or None,
        )

    def delta(self, part: AnswerPart) -> ChatDelta:
        if isinstance(part, Reasoning):
            return ChatDelta(reasoning_content=part.text)
        if isinstance(part, AnswerText):
            return ChatDelta(content=part.text)
        if isinstance(part, CallArguments):
            call = ToolCallDelta(index=part.index, function=FunctionDelta(arguments=part.text))
        else:
            function = FunctionDelta(name=part.name, arguments="")
            call = ToolCallDelta(index=part.index, id=self._id_of(part), type="function", function=function)
        return ChatDelta(tool_calls=[call])

    @property
    def finish_reason(self) -> FinishReason:
        assert self.finished is not None
        has_calls = self._output.n_calls > 0
        return "tool_calls" if has_calls and self.finished.reason == "stop" else self.finished.reason

    def _id_of(self, call: CallBegins) -> str:
        assert self._form.tool_format is not None
        return call.id or new_call_id(self._form.tool_format)
