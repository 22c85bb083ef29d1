"""What clients send, as OpenAI's API has it (https://platform.openai.com/docs/api-reference), plus a few extensions.

Types are strict: "1" is no number, but 16.0 is a whole one. Null means the same as leaving a field out. Unknown fields
are ignored, as clients send many that say nothing about the answer; those that do, and that dllama cannot honour, have
to ask for nothing: null, "", [], {}, false or 0.
"""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

import pydantic
from pydantic import Field
from pydantic_core import PydanticCustomError

from dllama.server.request_fields import (
    FAIL_FAST,
    MAX_CHOICES,
    MAX_MESSAGES,
    MAX_SEED,
    MAX_STOP_CHARACTERS,
    MAX_STOP_STRINGS,
    MAX_TOKENS,
    MAX_TOOLS,
    MAX_TOP_LOGPROBS,
    SEVERAL,
    Int,
    JsonObject,
    Limit,
    LogitBias,
    ModelRequest,
    StopString,
    TokenId,
    Unsupported,
    unsupported,
)
from dllama.server.request_parts import (
    Message,
    NamedToolChoice,
    ResponseFormat,
    StreamOptions,
    StructuredOutputs,
    Tool,
)


class GenerationRequest(ModelRequest):
    """What chats and completions have in common; null for the defaults that the server was started with."""

    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, ge=0, le=1)
    top_k: Int | None = Field(None, ge=-1, le=MAX_TOKENS, description="0, -1: no limit (an extension)")
    min_p: float | None = Field(None, ge=0, le=1, description="an extension")
    repetition_penalty: float | None = Field(None, gt=0, le=10, description="an extension")
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    logit_bias: LogitBias | None = Field(None, description="keys are token ids")
    seed: Int | None = Field(None, ge=-MAX_SEED - 1, le=MAX_SEED)
    stop: StopString | Annotated[list[StopString], FAIL_FAST, Field(max_length=MAX_STOP_STRINGS)] | None = (
        None
    )
    stop_token_ids: Annotated[list[TokenId], FAIL_FAST] | None = Field(
        None, description="tokens that end the text, also with ignore_eos (an extension)"
    )
    n: Int | None = Field(None, ge=1, le=MAX_CHOICES)
    ignore_eos: bool | None = Field(None, description="go on after an end token (an extension)")
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    response_format: ResponseFormat | None = None
    json_schema: JsonObject | str | None = Field(None, description="of the answer, as llama-server has it")
    guided_json: JsonObject | str | None = Field(None, description="a schema of the answer, as vLLM has it")
    structured_outputs: StructuredOutputs | None = Field(None, description="as vLLM has it")
    format: Literal["json", ""] | JsonObject | None = Field(
        None, description='"json" or a schema of the answer, as Ollama has it'
    )
    grammar: Unsupported = None
    guided_grammar: Unsupported = None
    guided_regex: Unsupported = None
    guided_choice: Unsupported = None
    regex: Unsupported = None
    ebnf: Unsupported = None
    min_tokens: Unsupported = None
    bad_words: Unsupported = None
    chat_template: Unsupported = None
    allowed_token_ids: Unsupported = None

    @pydantic.field_validator("stop")
    @classmethod
    def _check_stop(cls, stop: str | list[str] | None) -> str | list[str] | None:
        if isinstance(stop, list) and sum(map(len, stop)) > MAX_STOP_CHARACTERS:
            raise PydanticCustomError(
                "too_long",
                "all together should have at most {most} characters",
                {"most": MAX_STOP_CHARACTERS},
            )
        return stop

    @property
    def include_usage(self) -> bool:
        return self.stream_options is not None and bool(self.stream_options.include_usage)

    @property
    def stop_strings(self) -> tuple[str, ...]:
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())


Messages: TypeAlias = Annotated[list[Message], SEVERAL, Field(max_length=MAX_MESSAGES)]
Tools: TypeAlias = Annotated[list[Tool], FAIL_FAST, Field(max_length=MAX_TOOLS)] | None
TemplateVariables: TypeAlias = Annotated[
    JsonObject | None,
    Field(description="variables for the chat template, such as enable_thinking (an extension)"),
]
AddGenerationPrompt: TypeAlias = Annotated[
    bool | None, Field(description="open the assistant's turn (default true; an extension)")
]
ContinueFinalMessage: TypeAlias = Annotated[
    bool | None,
    Field(description="go on with the last message (default: if it is an assistant's; an extension)"),
]


class ChatRequest(GenerationRequest):
    messages: Messages
    add_generation_prompt: AddGenerationPrompt = None
    continue_final_message: ContinueFinalMessage = None
    reasoning_format: Literal["none", "auto", "deepseek"] | None = Field(
        None, description='"none": what the model thinks stays in content (an extension, llama-server\'s)'
    )
    max_tokens: Limit | None = None
    max_completion_tokens: Limit | None = None
    logprobs: bool | None = None
    top_logprobs: Int | None = Field(None, ge=0, le=MAX_TOP_LOGPROBS)
    tools: Tools = None
    tool_choice: Literal["none", "auto", "required"] | NamedToolChoice | None = None
    parallel_tool_calls: bool | None = None
    chat_template_kwargs: TemplateVariables = None
    functions: Unsupported = None
    function_call: unsupported("none", "auto") = None  # type: ignore[valid-type]
    audio: Unsupported = None
    web_search_options: Unsupported = None


Prompt: TypeAlias = (
    str
    | Annotated[list[str], SEVERAL, Field(max_length=MAX_CHOICES)]
    | Annotated[list[TokenId], SEVERAL]
    | Annotated[list[Annotated[list[TokenId], SEVERAL]], SEVERAL, Field(max_length=MAX_CHOICES)]
)


ParseSpecial: TypeAlias = Annotated[
    bool | None, Field(description="false: names of special tokens in a text stay text (an extension)")
]


class CompletionRequest(GenerationRequest):
    prompt: Prompt
    parse_special: ParseSpecial = None
    max_tokens: Int | None = Field(
        None, ge=-1, le=MAX_TOKENS, description="16 when left out, as at OpenAI; -1: no limit"
    )
    logprobs: Int | None = Field(None, ge=0, le=MAX_TOP_LOGPROBS)
    echo: bool | None = None
    suffix: Unsupported = None
    best_of: unsupported(1) = None  # type: ignore[valid-type]


MAX_EMBEDDING_INPUTS = 256


class EmbeddingRequest(ModelRequest):
    input: (
        Annotated[str, Field(min_length=1)]
        | Annotated[
            list[Annotated[str, Field(min_length=1)]], SEVERAL, Field(max_length=MAX_EMBEDDING_INPUTS)
        ]
        | Annotated[list[TokenId], SEVERAL]
        | Annotated[list[Annotated[list[TokenId], SEVERAL]], SEVERAL, Field(max_length=MAX_EMBEDDING_INPUTS)]
    )
    parse_special: ParseSpecial = None
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Int | None = Field(
        None, ge=1, le=MAX_TOKENS, description="the first so many, of length 1 again"
    )


class TokenizeRequest(ModelRequest):
    """Either `prompt` or `messages`."""

    prompt: str | None = None
    messages: Messages | None = None
    parse_special: ParseSpecial = None
    add_special_tokens: bool | None = Field(
        None, description="whether the model's first token comes before a prompt"
    )
    tools: Tools = None
    chat_template_kwargs: TemplateVariables = None
    add_generation_prompt: AddGenerationPrompt = None
    continue_final_message: ContinueFinalMessage = None


class DetokenizeRequest(ModelRequest):
    tokens: Annotated[list[TokenId], FAIL_FAST]
