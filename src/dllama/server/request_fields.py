"""The types of single fields of requests, and how much of each is taken (see requests.py)."""

from __future__ import annotations

import re
from typing import Annotated, Any, TypeAlias

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


def unsupported(*neutral: Any) -> Any:
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


Unsupported: TypeAlias = unsupported()  # type: ignore[valid-type]
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

FAIL_FAST = Field(fail_fast=True)
"""The first wrong element of a list is told and no other: a body of 4 MB has room for a million of them, each of which
would become an error object for every kind of element that it might have been."""

SEVERAL = Field(fail_fast=True, min_length=1)


def _check_biases(biases: dict[Any, Any]) -> dict[Any, Any]:
    """The first that is wrong is told, see FAIL_FAST."""
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
