"""What clients get, as OpenAI's API has it. Fields that OpenAI always sends are there, null where nothing is to say."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import pydantic

from dllama.node import LITTLE_WAIT, WAITS_APART, NodeInfo

FinishReason: TypeAlias = Literal["stop", "length", "tool_calls"]


class Response(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")


class Sparse(Response):
    """Fields without news are left out."""

    @pydantic.model_serializer(mode="wrap")
    def _without_nulls(self, serialize: pydantic.SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {name: value for name, value in serialize(self).items() if value is not None}


class ErrorBody(Response):
    message: str
    type: str
    param: str | None
    code: str | None


class ErrorResponse(Response):
    error: ErrorBody


class TokenLogprob(Response):
    token: str
    logprob: float
    bytes: list[int]


class TokenLogprobs(TokenLogprob):
    top_logprobs: list[TokenLogprob]


class ChatLogprobs(Response):
    content: list[TokenLogprobs]
    refusal: None = None


class PromptTokensDetails(Response):
    cached_tokens: int


class Usage(Response):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails


class FunctionCall(Response):
    name: str
    arguments: str


class ToolCall(Response):
    id: str
    type: Literal["function"] = "function"
    function: FunctionCall


class ChatMessage(Response):
    role: Literal["assistant"] = "assistant"
    content: str | None
    refusal: None = None
    reasoning_content: str | None = None
    tool_calls: list[ToolCall] | None = None

    @pydantic.model_serializer(mode="wrap")
    def _without_absent_parts(self, serialize: pydantic.SerializerFunctionWrapHandler) -> dict[str, Any]:
        message: dict[str, Any] = serialize(self)
        for name in ("reasoning_content", "tool_calls"):
            if message[name] is None:
                del message[name]
        return message


class ChatChoice(Response):
    index: int
    message: ChatMessage
    logprobs: ChatLogprobs | None
    finish_reason: FinishReason


class ChatCompletion(Response):
    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage
    system_fingerprint: str


class FunctionDelta(Sparse):
    name: str | None = None
    arguments: str | None = None


class ToolCallDelta(Sparse):
    index: int
    id: str | None = None
    type: Literal["function"] | None = None
    function: FunctionDelta


class ChatDelta(Sparse):
    role: Literal["assistant"] | None = None
    content: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[ToolCallDelta] | None = None


class ChatChunkChoice(Response):
    index: int
    delta: ChatDelta
    logprobs: ChatLogprobs | None
    finish_reason: FinishReason | None


class ChatChunk(Response):
    id: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: int
    model: str
    choices: list[ChatChunkChoice]
    usage: Usage | None = None
    system_fingerprint: str


class CompletionLogprobs(Response):
    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class CompletionChoice(Response):
    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: Literal["stop", "length"] | None


class Completion(Response):
    """Also what a stream's events are; finish_reason is null until the last one of a choice."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: Usage | None = None
    system_fingerprint: str


class Model(Response):
    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "dllama"
    max_model_len: int | None


class Version(Response):
    version: str


class SamplingDefaults(Response):
    """What has the same name everywhere."""

    temperature: float
    top_p: float
    top_k: int
    min_p: float
    presence_penalty: float
    frequency_penalty: float


class SlotParams(SamplingDefaults):
    """Names as llama-server has them."""

    repeat_penalty: float


class SlotSettings(Response):
    n_ctx: int
    params: SlotParams


class Props(Response):
    """What llama-server's clients ask for; `total_slots` are the texts that are written at once."""

    default_generation_settings: SlotSettings
    total_slots: int
    model_alias: str
    chat_template: str
    build_info: str


class ModelList(Response):
    object: Literal["list"] = "list"
    data: list[Model]


class Embedding(Response):
    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str


class EmbeddingUsage(Response):
    prompt_tokens: int
    total_tokens: int


class EmbeddingList(Response):
    object: Literal["list"] = "list"
    data: list[Embedding]
    model: str
    usage: EmbeddingUsage


class Tokens(Response):
    tokens: list[int]
    count: int
    max_model_len: int


class DetokenizedText(Response):
    prompt: str


class EngineNumbers(Response):
    """Requests and pages now; tokens and steps since the start."""

    running: int
    queued: int
    pages_total: int
    pages_used: int
    pages_cached: int
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    steps: int
    preemptions: int
    tok_per_s: float


class Margins(Response):
    """Parts of a step, for whoever judges the nodes' times: waiting that nobody minds, and the least by which the waits
    of two nodes differ."""

    little_wait: float = LITTLE_WAIT
    waits_apart: float = WAITS_APART


class ClusterView(Response):
    """While it recovers, `nodes` are those that there were, with which of them are lost."""

    model: str
    status: Literal["ok", "recovering"]
    reason: str | None
    max_model_len: int | None
    nodes: list[NodeInfo]
    margins: Margins = Margins()
    engine: EngineNumbers | None


class Defaults(SamplingDefaults):
    """What a request gets that says nothing. `seed` null: another one each time; `max_tokens` null: to the end of the
    context."""

    repetition_penalty: float
    max_tokens: int | None
    seed: int | None


class Health(Response):
    status: Literal["ok", "recovering"]
    reason: str | None = None
