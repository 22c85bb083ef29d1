"""What requests of several endpoints are made of: messages, tools, formats of answers (see requests.py)."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

import pydantic
from pydantic import Field
from pydantic_core import PydanticCustomError

from dllama.server.request_fields import (
    FAIL_FAST,
    SEVERAL,
    JsonObject,
    Name,
    Request,
    Unsupported,
)


class TextPart(Request):
    type: Literal["text"]
    text: str


MessageContent: TypeAlias = str | Annotated[list[TextPart], SEVERAL]


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
    tool_calls: Annotated[list[ToolCall], FAIL_FAST] | None = None
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
