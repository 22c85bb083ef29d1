"""The one implementation of Tokenizer: a pipeline of the `tokenizers` library and its bytes."""

from __future__ import annotations

import dataclasses
import enum
import re
from collections.abc import Iterable, Mapping, Sequence

import tokenizers
from tokenizers import pre_tokenizers

from dllama.errors import TokenizerError
from dllama.tokenizer import byte_alphabet
from dllama.tokenizer.base import Settings
from dllama.tokenizer.special_names import SpecialNames
from dllama.tokenizer.stream import decode_all

WORD_START = "\u2581"
"""What SentencePiece writes for a space."""

_BYTE_PIECE = re.compile(r"<0x([0-9A-F]{2})>")
_CONTROL_NAME = re.compile(r"<[|｜].+[|｜]>", re.DOTALL)
_BRACKETED_NAME = re.compile(r"<[^<>\s]+>|\[/?[A-Z0-9_]+\]")


class PieceStyle(enum.Enum):
    """How a vocabulary writes bytes that are no text, and spaces."""

    BYTE_LEVEL = enum.auto()
    SENTENCEPIECE = enum.auto()

    @classmethod
    def of(cls, pipeline: tokenizers.Tokenizer) -> PieceStyle:
        """Found by giving the pipeline's decoder a piece that ends in a space."""
        styles = {byte_alphabet.write_bytes(b" "): cls.BYTE_LEVEL, WORD_START: cls.SENTENCEPIECE}
        for space, style in styles.items():
            if pipeline.decoder is not None and pipeline.decoder.decode(["a" + space]) == "a ":
                return style
        raise TokenizerError("it is neither byte-level nor SentencePiece: its decoder restores no spaces")

    def to_bytes(self, piece: str) -> bytes:
        if self is PieceStyle.BYTE_LEVEL:
            return byte_alphabet.read_bytes(piece)
        byte = _BYTE_PIECE.fullmatch(piece)
        return bytes.fromhex(byte[1]) if byte else piece.replace(WORD_START, " ").encode()


def is_control_name(name: str) -> bool:
    """Whether a token is named `<|like_this|>`: it belongs to the template, never to a user's text.

    Some models do not flag all of theirs as special (DeepSeek's `<｜User｜>`), which would let a user's text
    forge a turn.
    """
    return _CONTROL_NAME.fullmatch(name) is not None


def is_bracketed_name(name: str) -> bool:
    """Whether a token is named `<like_this>` or `[LIKE_THIS]`, as those around SentencePiece's pieces are."""
    return _BRACKETED_NAME.fullmatch(name) is not None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Parsed:
    """What a tokenizer's file says: how to make ids, each id's bytes, and the settings."""

    pipeline: tokenizers.Tokenizer
    tokens: Sequence[bytes]
    settings: Settings


class PipelineTokenizer:
    """Ids are those of the `tokenizers` pipeline with special tokens left alone in text."""

    def __init__(self, parsed: Parsed) -> None:
        """`parsed` belongs to this object from here on.

        Raises TokenizerError when the settings name ids that have no token, or pieces are of an unknown kind.
        """
        pipeline, settings = parsed.pipeline, parsed.settings
        self._settings = settings
        self._tokens = parsed.tokens
        self.style = PieceStyle.of(pipeline)
        self._pipeline = _without_special_tokens_in_text(pipeline, settings)
        self._continuation = _continuation(pipeline)
        added = pipeline.get_added_tokens_decoder()
        self._special = {token_id: token for token_id, token in added.items() if token.special}
        self._special_tokens = {token.content: token_id for token_id, token in self._special.items()}
        self._names = SpecialNames(self._special_tokens)
        self._drops_leading_space: bool = pipeline.decoder.decode([WORD_START + "a"]) == "a"

    @property
    def vocab_size(self) -> int:
        return len(self._tokens)

    @property
    def bos_id(self) -> int | None:
        return self._settings.bos_id

    @property
    def add_bos(self) -> bool:
        return self._settings.add_bos

    @property
    def add_eos(self) -> bool:
        """Whether the model's own tokenizer ends every text with the first of `eos_ids`; a prompt does not."""
        return self._settings.add_eos

    @property
    def eos_ids(self) -> tuple[int, ...]:
        return self._settings.eos_ids

    @property
    def chat_template(self) -> str | None:
        return self._settings.chat_template

    @property
    def named_templates(self) -> Mapping[str, str]:
        return self._settings.named_templates

    @property
    def special_tokens(self) -> Mapping[str, int]:
        return self._special_tokens

    @property
    def drops_leading_space(self) -> bool:
        return self._drops_leading_space

    def encode(self, text: str, *, add_bos: bool = False, parse_special: bool = False) -> list[int]:
        parts = self._names.split(text) if parse_special else [text]
        ids = self.encode_parts(parts)
        begins = len(parts) > 1 and not parts[0] and parts[1] == self.bos_id
        return [self.bos_id, *ids] if add_bos and self.bos_id is not None and not begins else ids

    def encode_parts(self, parts: Sequence[str | int]) -> list[int]:
        ids: list[int] = []
        for before, part, after in zip(["", *parts], parts, [*parts[1:], ""], strict=False):
            if isinstance(part, int):
                ids.append(part)
            else:
                text = self._without_swallowed_space(before, part, after)
                ids += self._encode(self._continuation if ids else self._pipeline, text)
        return ids

    def _without_swallowed_space(self, before: str | int, text: str, after: str | int) -> str:
        """`text` less the white space that the special tokens beside it take as theirs."""
        if isinstance(before, int) and before in self._special and self._special[before].rstrip:
            text = text.lstrip()
        if isinstance(after, int) and after in self._special and self._special[after].lstrip:
            text = text.rstrip()
        return text

    def _encode(self, pipeline: tokenizers.Tokenizer, text: str) -> list[int]:
        try:  # as a batch of one: for a single text the library keeps the interpreter's lock
            ids: list[int] = pipeline.encode_batch_fast([text], add_special_tokens=False)[0].ids
        except TypeError as error:  # all that the library takes no str for
            raise TokenizerError("the text has half a surrogate pair in it, which is no character") from error
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        return decode_all(self, ids)

    def token_bytes(self, token_id: int) -> bytes:
        return self._tokens[token_id] if 0 <= token_id < len(self._tokens) else b""

    def token_in_t_file(self, token_id: int) -> bytes:
        """As token_bytes, but a SentencePiece byte by its name (`<0x0A>`), as Distributed Llama has it."""
        token = self.token_bytes(token_id)
        name = self._pipeline.id_to_token(token_id)
        return name.encode() if name is not None and _BYTE_PIECE.fullmatch(name) else token

    def is_special(self, token_id: int) -> bool:
        return token_id in self._special


def _without_special_tokens_in_text(
    pipeline: tokenizers.Tokenizer, settings: Settings
) -> tokenizers.Tokenizer:
    """The pipeline, with every control token flagged as special, and no special token found in text.

    Raises TokenizerError when `settings` name an id that has no token.
    """
    added = pipeline.get_added_tokens_decoder()
    controls = [token.content for token in added.values() if is_control_name(token.content)]
    for token_id in (settings.bos_id, *settings.eos_ids):
        if token_id is not None:
            name = pipeline.id_to_token(token_id) if token_id >= 0 else None
            if name is None:
                raise TokenizerError(f"its first or end token {token_id} is not in its vocabulary")
            controls.append(name)
    flagged = {token.content for token in added.values() if token.special}
    pipeline.add_special_tokens([name for name in controls if name not in flagged])
    pipeline.encode_special_tokens = True
    pipeline.no_truncation()
    pipeline.no_padding()
    return pipeline


def _continuation(pipeline: tokenizers.Tokenizer) -> tokenizers.Tokenizer:
    """A pipeline for text that does not begin the conversation; it shares the vocabulary.

    It differs where a leading space is added at the very beginning only (Metaspace's scheme "first").
    """
    start = pipeline.pre_tokenizer
    if not isinstance(start, pre_tokenizers.Metaspace) or start.prepend_scheme != "first":
        return pipeline
    continuation = tokenizers.Tokenizer(pipeline.model)
    continuation.normalizer = pipeline.normalizer
    continuation.pre_tokenizer = pre_tokenizers.Metaspace(
        replacement=start.replacement, prepend_scheme="never", split=start.split
    )
    for _, token in sorted(pipeline.get_added_tokens_decoder().items()):
        (continuation.add_special_tokens if token.special else continuation.add_tokens)([token])
    continuation.encode_special_tokens = True
    return continuation


def tokens_of(pipeline: tokenizers.Tokenizer) -> list[bytes]:
    """Each id's bytes; nothing for ids without a token. Raises TokenizerError on pieces of an unknown kind."""
    style = PieceStyle.of(pipeline)
    vocabulary = pipeline.get_vocab(with_added_tokens=True)
    tokens = [b""] * (max(vocabulary.values(), default=-1) + 1)
    for piece, token_id in vocabulary.items():
        tokens[token_id] = style.to_bytes(piece)
    for token_id, token in pipeline.get_added_tokens_decoder().items():
        is_text = (
            style is PieceStyle.SENTENCEPIECE and not token.special and not is_control_name(token.content)
        )
        # Gemma's runs of spaces are added tokens, written as its pieces are; names stay as they are.
        tokens[token_id] = style.to_bytes(token.content) if is_text else token.content.encode()
    return tokens
