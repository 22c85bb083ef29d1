"""SentencePiece's tokenizer.model (Llama 2, Mistral), read.

The file is a protobuf message, `ModelProto` of sentencepiece_model.proto
(https://github.com/google/sentencepiece). Of its many fields nine matter here, and the wire format of those is
a few lines; a protobuf library would be a dependency for one small file.
"""

from __future__ import annotations

import dataclasses
import enum
import struct
from collections.abc import Iterator

from dllama.errors import TokenizerError
from dllama.tokenizer.base import Settings
from dllama.tokenizer.pipeline import Parsed, is_bracketed_name, tokens_of
from dllama.tokenizer.vocabulary import Vocabulary, sentencepiece_pipeline


class PieceType(enum.IntEnum):
    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


_BPE = 2
_MODEL_TYPES = {1: "unigram", _BPE: "bpe", 3: "word", 4: "char"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class SentencePieceModel:
    """`pieces`, `scores` and `types` by id; `bos_id` and `eos_id` are -1 where there is none."""

    pieces: list[str]
    scores: list[float]
    types: list[PieceType]
    bos_id: int
    eos_id: int
    space_before_text: bool

    def ids_of(self, *types: PieceType) -> frozenset[int]:
        return frozenset(token_id for token_id, kind in enumerate(self.types) if kind in types)


def parse_sentencepiece_model(content: bytes) -> SentencePieceModel:
    """Raises TokenizerError on a damaged file and on models other than BPE without text normalisation."""
    try:
        return _parse(content)
    except (IndexError, ValueError, struct.error) as error:
        raise TokenizerError("it is no sound tokenizer.model, of SentencePiece or of tiktoken") from error


def parse_sentencepiece_tokenizer(content: bytes) -> Parsed:
    """The tokenizer of a tokenizer.model. Errors as of parse_sentencepiece_model.

    User-defined pieces with a bracketed name (Mistral's `[REFERENCE_DOC_1]`) count as special: SentencePiece
    itself would find them in text, where a user could forge them.
    """
    model = parse_sentencepiece_model(content)
    normal = model.ids_of(PieceType.NORMAL)
    whole = model.ids_of(PieceType.USER_DEFINED)
    controls = frozenset(token_id for token_id in whole if is_bracketed_name(model.pieces[token_id]))
    vocabulary = Vocabulary(
        pieces=model.pieces,
        order=sorted(normal, key=lambda token_id: (-model.scores[token_id], token_id)),
        special=model.ids_of(PieceType.UNKNOWN, PieceType.CONTROL) | controls,
        whole=whole - controls,
        byte_pieces=model.ids_of(PieceType.BYTE),
        unknown=min(model.ids_of(PieceType.UNKNOWN), default=None),
    )
    settings = Settings(
        bos_id=model.bos_id if model.bos_id >= 0 else None,
        add_bos=model.bos_id >= 0,
        eos_ids=(model.eos_id,) if model.eos_id >= 0 else (),
        chat_template=None,
    )
    pipeline = sentencepiece_pipeline(vocabulary, space_before_text=model.space_before_text)
    return Parsed(pipeline=pipeline, tokens=tokens_of(pipeline), settings=settings)


def _parse(content: bytes) -> SentencePieceModel:
    pieces: list[str] = []
    scores: list[float] = []
    types: list[PieceType] = []
    trainer: dict[int, int | bytes] = {}
    normalizer: dict[int, int | bytes] = {}
    for number, value in _fields(content):
        if number == 1 and isinstance(value, bytes):
            piece = dict(_fields(value))
            pieces.append(_bytes(piece, 1).decode())
            scores.append(*struct.unpack("<f", _bytes(piece, 2, b"\0\0\0\0")))
            types.append(PieceType(_int(piece, 3, PieceType.NORMAL)))
        elif number == 2 and isinstance(value, bytes):
            trainer = dict(_fields(value))
        elif number == 3 and isinstance(value, bytes):
            normalizer = dict(_fields(value))
    if not pieces:
        raise ValueError("no pieces")
    _require_plain_bpe(trainer, normalizer)
    return SentencePieceModel(
        pieces=pieces,
        scores=scores,
        types=types,
        bos_id=_int(trainer, 41, 1),
        eos_id=_int(trainer, 42, 2),
        space_before_text=bool(_int(normalizer, 3, 1)),
    )


def _require_plain_bpe(trainer: dict[int, int | bytes], normalizer: dict[int, int | bytes]) -> None:
    model_type = _int(trainer, 3, 1)
    if model_type != _BPE:
        kind = _MODEL_TYPES.get(model_type, str(model_type))
        raise TokenizerError(
            f"a SentencePiece model of type {kind}; only bpe is known: use the model's tokenizer.json"
        )
    if _bytes(normalizer, 2) or _int(normalizer, 4, 1):
        raise TokenizerError("a SentencePiece model that normalises text; use the model's tokenizer.json")


def _int(fields: dict[int, int | bytes], number: int, default: int) -> int:
    """An int32 field; negative ones are written as 64 bits."""
    value = fields.get(number, default)
    if not isinstance(value, int):
        raise ValueError(f"field {number} is no integer")
    return value - (1 << 64) if value >= 1 << 63 else value


def _bytes(fields: dict[int, int | bytes], number: int, default: bytes = b"") -> bytes:
    value = fields.get(number, default)
    if not isinstance(value, bytes):
        raise ValueError(f"field {number} is no string")
    return value


def _fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """The fields of a protobuf message: number, and an integer or bytes (protobuf.dev, "Encoding")."""
    position = 0
    while position < len(message):
        tag, position = _varint(message, position)
        number, wire_type = tag >> 3, tag & 7
        if wire_type == 0:
            value, position = _varint(message, position)
            yield number, value
            continue
        if wire_type == 2:
            length, position = _varint(message, position)
        elif wire_type in (1, 5):
            length = 8 if wire_type == 1 else 4
        else:
            raise ValueError(f"wire type {wire_type}")
        if position + length > len(message):
            raise ValueError("a field longer than its message")
        yield number, message[position : position + length]
        position += length


def _varint(message: bytes, position: int) -> tuple[int, int]:
    """A number in groups of seven bits, lowest first, and the position after it."""
    value = shift = 0
    while True:
        byte = message[position]
        position += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value, position
        if shift > 63:
            raise ValueError("a number of more than 64 bits")
