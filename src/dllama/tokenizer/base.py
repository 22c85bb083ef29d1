"""What a tokenizer is to the rest of the program."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """What stands beside a vocabulary: which ids begin and end a text, and how a conversation is written."""

    bos_id: int | None
    add_bos: bool
    eos_ids: tuple[int, ...]
    chat_template: str | None
    named_templates: Mapping[str, str] = dataclasses.field(default_factory=dict)
    add_eos: bool = False


class Tokenizer(Protocol):
    """Text to token ids and back. `decode(encode(text)) == text`.

    A special token (end of turn, begin of text) is found in text only where `parse_special` says so: its name,
    typed by a user into a message, is plain text. `ChatTemplate` puts special tokens where they belong.
    """

    @property
    def vocab_size(self) -> int:
        """One more than the largest id."""

    @property
    def bos_id(self) -> int | None:
        """The id that begins a text, where the model has one."""

    @property
    def add_bos(self) -> bool:
        """Whether the model expects `bos_id` before a plain prompt."""

    @property
    def eos_ids(self) -> tuple[int, ...]:
        """Ids at which generation stops."""

    @property
    def chat_template(self) -> str | None:
        """The model's own Jinja template, where there is one."""

    @property
    def named_templates(self) -> Mapping[str, str]:
        """Other templates of the model, by name (`tool_use`)."""

    @property
    def special_tokens(self) -> Mapping[str, int]:
        """Name to id."""

    @property
    def drops_leading_space(self) -> bool:
        """Whether a text's ids begin with a space that is not the text's (SentencePiece)."""

    def encode(self, text: str, *, add_bos: bool = False, parse_special: bool = False) -> list[int]:
        """The ids of `text`, after `bos_id` if `add_bos` (and the model has one).

        With `parse_special` the names of special tokens in it are these tokens; a text that begins with `bos_id`
        by its name gets no second one.

        Raises TokenizerError when `text` holds half a surrogate pair, which is no character.
        """

    def encode_parts(self, parts: Sequence[str | int]) -> list[int]:
        """The ids of text with special tokens in it, which are given as their ids. Errors as of encode."""

    def decode(self, ids: Iterable[int]) -> str:
        """The text of `ids`, without special tokens; bytes that are no UTF-8 become U+FFFD."""

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes of one token; a special token's name; nothing for an id that has no token."""

    def is_special(self, token_id: int) -> bool: ...
