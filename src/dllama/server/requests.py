"""What clients send, as OpenAI's API has it (https://platform.openai.com/docs/api-reference), plus a few extensions.

Types are strict: "1" is no number, but 16.0 is a whole one. Null means the same as leaving a field out. Unknown fields
are ignored, as clients send many that say nothing about the answer; those that do, and that dllama cannot honour, have
to ask for nothing: null, "", [], {}, false or 0.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, TypeAlias

import pydantic
from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema
from pydantic_core import PydanticCustomError

from dllama.plain_text import LONGEST_NAME, plain_line

MAX_CHOICES = 16
MAX_STOP_STRINGS = 256
MAX_STOP_CHARACTERS = 16_000
MAX_TOP_LOGPROBS = 20
MAX_MESSAGES = 16384
"""More than any context holds in practice; reading 100 000 of them would take half a second, which everybody waits."""
MAX_TOOLS = 128
MAX_TOKENS = 2**31 - 1
NO_LIMIT = -1
"""In place of a number of tokens: as many as the context has room for."""

MAX_SEED = 2**63 - 1


def _unsupported(*neutral: Any) -> Any:
    """The type of a field that asks for what is not done here; `neutral` values ask for nothing, as do empty ones."""
    nothing = (None, "", [], {}, False, 0, *neutral)

    def check(value: Any) -> None:
        if value not in nothing:
            raise PydanticCustomError("unsupported", "not supported here, leave it out")

    return Annotated[
        None,
        BeforeValidator(check),
        WithJsonSchema({"enum": list(nothing), "description": "not supported: leave it out"}),
    ]


def _whole(value: Any) -> Any:
    """16.0 is 16: JSON has one kind of numbers."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _check_some(value: int) -> int:
    if value == 0:
        raise PydanticCustomError("no_tokens", "Input should be greater than 0, or -1 for no limit")
    return value


Unsupported: TypeAlias = _unsupported()  # type: ignore[valid-type]
Int: TypeAlias = Annotated[int, BeforeValidator(_whole)]
Limit: TypeAlias = Annotated[
    Int,
    Field(ge=-1, le=MAX_TOKENS),
    AfterValidator(_check_some),
    WithJsonSchema(
        {
            "type": "integer",
            "minimum": -1,
            "maximum": MAX_TOKENS,
            "not": {"const": 0},
            "description": "-1: no limit",
        }
    ),
]
Name: TypeAlias = Annotated[str, Field(pattern=r"^[a-zA-Z0-9_.:/-]{1,128}$")]
TokenId: TypeAlias = Annotated[int, Field(ge=0, lt=2**31)]
StopString: TypeAlias = Annotated[str, Field(min_length=1, max_length=1000)]
JsonObject: TypeAlias = dict[str, Any]

_FailFast = Field(fail_fast=True)
"""The first wrong element of a list is told and no other: a body of 4 MB has room for a million of them, each of which
would become an error object for every kind of element that it might have been."""

_Several = Field(fail_fast=True, min_length=1)


def _check_biases(biases: dict[Any, Any]) -> dict[Any, Any]:
    """The first that is wrong is told, see _FailFast."""
    for key, bias in biases.items():
        if not _TOKEN_ID.fullmatch(key):
            raise PydanticCustomError(
                "token_id", "{key} is no token id", {"key": f"'{plain_line(key, LONGEST_NAME)}'"}
            )
        if isinstance(bias, bool) or not isinstance(bias, (int, float)) or not -100 <= bias <= 100:
            raise PydanticCustomError("bias", "the bias of {key} is no number from -100 to 100", {"key": key})
    return biases


_TOKEN_ID = re.compile(r"[0-9]{1,10}")

LogitBias: TypeAlias = Annotated[
    dict[str, Any],
    AfterValidator(_check_biases),
    WithJsonSchema(
        {"type": "object", "additionalProperties": {"type": "number", "minimum": -100, "maximum": 100}}
    ),
]


class Request(pydantic.BaseModel):
    # What clients wrote is not to outlive their requests in pydantic's cache of strings; names of fields may.
    model_config = pydantic.ConfigDict(strict=True, frozen=True, cache_strings="keys")


class ModelRequest(Request):
    model: str | None = Field(None, description="the served model's name; null for whatever is served")


class TextPart(Request):
    type: Literal["text"]
    text: str


MessageContent: TypeAlias = str | Annotated[list[TextPart], _Several]


class FunctionCall(Request):
    name: Name
    arguments: str = Field(description="a JSON object, as text")


class ToolCall(Request):
    id: str
    type: Literal["function"]
    function: FunctionCall


class SystemMessage(Request):
    role: Literal["system", "developer"]
    content: MessageContent


class UserMessage(Request):
    role: Literal["user"]
    content: MessageContent


class AssistantMessage(Request):
    role: Literal["assistant"]
    content: MessageContent | None = None
    tool_calls: Annotated[list[ToolCall], _FailFast] | None = None
    reasoning_content: str | None = Field(None, description="what was thought before it (an extension)")
    reasoning: str | None = Field(None, description="another name of reasoning_content (an extension)")

    @property
    def thought(self) -> str | None:
        return self.reasoning_content or self.reasoning or None


class ToolMessage(Request):
    role: Literal["tool"]
    content: MessageContent
    tool_call_id: str


Message: TypeAlias = Annotated[
    SystemMessage | UserMessage | AssistantMessage | ToolMessage, Field(discriminator="role")
]


class Function(Request):
    name: Name
    description: str | None = None
    parameters: JsonObject | None = Field(None, description="a JSON schema of the arguments, an object")
    strict: bool | None = Field(None, description="arguments always follow the schema, whatever this says")

    @pydantic.field_validator("parameters")
    @classmethod
    def _check_object(cls, parameters: JsonObject | None) -> JsonObject | None:
        """Arguments are JSON objects, at OpenAI as in every chat template."""
        if parameters and parameters.get("type", "object") != "object":
            raise PydanticCustomError("no_object", 'should be a schema of "type": "object"')
        return parameters


class Tool(Request):
    type: Literal["function"]
    function: Function


class NamedFunction(Request):
    name: Name


class NamedToolChoice(Request):
    type: Literal["function"]
    function: NamedFunction


class TextFormat(Request):
    type: Literal["text"]


class JsonObjectFormat(Request):
    type: Literal["json_object"]
    json_schema: JsonObject | None = Field(None, alias="schema", description="what llama-server takes")


class JsonSchema(Request):
    name: Name | None = None
    description: str | None = None
    json_schema: JsonObject | None = Field(None, alias="schema")
    strict: bool | None = Field(None, description="the answer always follows the schema, whatever this says")


class JsonSchemaFormat(Request):
    type: Literal["json_schema"]
    json_schema: JsonSchema | None = None
    bare_schema: JsonObject | None = Field(None, alias="schema", description="what llama-server takes")


ResponseFormat: TypeAlias = Annotated[
    TextFormat | JsonObjectFormat | JsonSchemaFormat, Field(discriminator="type")
]


class StructuredOutputs(Request):
    """As vLLM has it; of its kinds those that are JSON."""

    json_schema: JsonObject | str | None = Field(None, alias="json")
    json_object: bool | None = None
    regex: Unsupported = None
    choice: Unsupported = None
    grammar: Unsupported = None
    structural_tag: Unsupported = None


class StreamOptions(Request):
    include_usage: bool | None = None


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
    stop: StopString | Annotated[list[StopString], _FailFast, Field(max_length=MAX_STOP_STRINGS)] | None = (
        None
    )
    stop_token_ids: Annotated[list[TokenId], _FailFast] | None = Field(
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


Messages: TypeAlias = Annotated[list[Message], _Several, Field(max_length=MAX_MESSAGES)]
Tools: TypeAlias = Annotated[list[Tool], _FailFast, Field(max_length=MAX_TOOLS)] | None
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
    function_call: _unsupported("none", "auto") = None  # type: ignore[valid-type]
    audio: Unsupported = None
    web_search_options: Unsupported = None


Prompt: TypeAlias = (
    str
    | Annotated[list[str], _Several, Field(max_length=MAX_CHOICES)]
    | Annotated[list[TokenId], _Several]
    | Annotated[list[Annotated[list[TokenId], _Several]], _Several, Field(max_length=MAX_CHOICES)]
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
    best_of: _unsupported(1) = None  # type: ignore[valid-type]


MAX_EMBEDDING_INPUTS = 256


class EmbeddingRequest(ModelRequest):
    input: (
        Annotated[str, Field(min_length=1)]
        | Annotated[
            list[Annotated[str, Field(min_length=1)]], _Several, Field(max_length=MAX_EMBEDDING_INPUTS)
        ]
        | Annotated[list[TokenId], _Several]
        | Annotated[
            list[Annotated[list[TokenId], _Several]], _Several, Field(max_length=MAX_EMBEDDING_INPUTS)
        ]
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
    tokens: Annotated[list[TokenId], _FailFast]
