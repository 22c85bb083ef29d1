"""The `.t` tokenizer file of Distributed Llama, read and written.

Layout (docs/formats.md): the magic number, the size of the header, (key, value) pairs, the chat template, the
ids that end a turn, then for each token its score, its length and its bytes. Little-endian int32 but for the
scores, which are float32; nothing is padded. The older magic number has five values in place of the pairs.
"""

from __future__ import annotations

import dataclasses
import enum
import math
import struct
from collections.abc import Sequence
from pathlib import Path

from dllama.errors import TokenizerError
from dllama.formats.atomic import write_atomically
from dllama.formats.plain_files import read_plain_file

MAGIC = 0x567124
OLD_MAGIC = 0x567123
VERSION = 1
LARGEST_BYTES = 1 << 29  # the largest vocabularies, of 262144 tokens, have 5 MB here and 35 MB as JSON

_INT = struct.Struct("<i")
_PAIR = struct.Struct("<ii")
_OLD_HEADER = struct.Struct("<5i")  # vocab_size, max_token_length, bos, eos, pad
_TOKEN = struct.Struct("<fi")


class _Key(enum.IntEnum):
    VERSION = 0
    VOCAB_SIZE = 1
    MAX_TOKEN_LENGTH = 2
    BOS_ID = 3
    EOS_ID = 4
    PAD_ID = 5
    CHAT_EOS_ID = 6
    CHAT_TEMPLATE_BYTES = 7
    CHAT_STOP_BYTES = 8
    N_EOS_IDS = 9
    ADD_BOS = 10


@dataclasses.dataclass(frozen=True, kw_only=True)
class TFile:
    """A vocabulary, and what stands beside it. `scores` order the merges: the best score merges first.

    `tokens[id]` are the bytes of a token; special tokens are stored as their names. `bos_id` is None where
    the file has none.
    """

    tokens: Sequence[bytes]
    scores: Sequence[float]
    bos_id: int | None
    add_bos: bool
    eos_ids: tuple[int, ...]
    chat_template: str | None


def is_t_file(content: bytes) -> bool:
    """Whether `content` begins with one of the two magic numbers."""
    return content.startswith((_INT.pack(MAGIC), _INT.pack(OLD_MAGIC)))


def read_t_file(path: Path) -> TFile:
    """Raises TokenizerError, naming the file and what is wrong with it, on anything but a sound `.t` file."""
    content = read_plain_file(path, TokenizerError, LARGEST_BYTES)
    try:
        return _parse(_Reader(content))
    except _DamageError as damage:
        raise TokenizerError(
            f"{path} is no sound .t tokenizer: {damage}; convert or copy it again"
        ) from damage


def write_t_file(path: Path, file: TFile) -> None:
    """Writes `file` in the newer format, whole or not at all. Errors are those of write_atomically."""
    content = encode_t_file(file)
    with write_atomically(path) as out:
        out.write(content)


def encode_t_file(file: TFile) -> bytes:
    """The bytes of the file in the newer format. Distributed Llama cannot read an empty token (asserted)."""
    assert all(file.tokens), "an empty token"
    assert len(file.tokens) == len(file.scores)
    template = b"" if file.chat_template is None else file.chat_template.encode()
    pairs = {
        _Key.VERSION: VERSION,
        _Key.VOCAB_SIZE: len(file.tokens),
        _Key.MAX_TOKEN_LENGTH: max(map(len, file.tokens)),
        _Key.N_EOS_IDS: len(file.eos_ids),
        _Key.ADD_BOS: int(file.add_bos),
    }
    if file.bos_id is not None:
        pairs[_Key.BOS_ID] = file.bos_id
    if template:
        pairs[_Key.CHAT_TEMPLATE_BYTES] = len(template)
    parts = [_PAIR.pack(MAGIC, _PAIR.size * (1 + len(pairs)))]
    parts += [_PAIR.pack(key, value) for key, value in pairs.items()]
    parts.append(template)
    parts += map(_INT.pack, file.eos_ids)
    for score, token in zip(file.scores, file.tokens, strict=True):
        parts += (_TOKEN.pack(score, len(token)), token)
    return b"".join(parts)


class _DamageError(Exception):
    """What is wrong, without the file's name."""


class _Reader:
    """A position in the file's bytes; every read is checked against their end."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.position = 0

    @property
    def n_left(self) -> int:
        return len(self.content) - self.position

    def take(self, n_bytes: int, what: str) -> bytes:
        if n_bytes < 0:
            raise _DamageError(f"{what} has a length of {n_bytes}")
        if n_bytes > self.n_left:
            raise _DamageError(f"it ends in the middle of {what}")
        self.position += n_bytes
        return self.content[self.position - n_bytes : self.position]

    def int(self, what: str) -> int:
        (value,) = _INT.unpack(self.take(_INT.size, what))
        return int(value)


def _parse(reader: _Reader) -> TFile:
    magic = reader.int("the magic number")
    if magic == MAGIC:
        return _parse_new(reader)
    if magic == OLD_MAGIC:
        return _parse_old(reader)
    raise _DamageError(f"it begins with {magic & 0xFFFFFFFF:#x}, neither {MAGIC:#x} nor {OLD_MAGIC:#x}")


def _parse_new(reader: _Reader) -> TFile:
    pairs, eos_ids = _header_pairs(reader)
    if pairs.get(_Key.VERSION) != VERSION:
        raise _DamageError(f"its version is {pairs.get(_Key.VERSION)}, not {VERSION}")
    template = reader.take(pairs.get(_Key.CHAT_TEMPLATE_BYTES, 0), "the chat template")
    reader.take(pairs.get(_Key.CHAT_STOP_BYTES, 0), "the chat stop")
    n_eos_ids = pairs.get(_Key.N_EOS_IDS, 0)
    if not 0 <= n_eos_ids * _INT.size <= reader.n_left:
        raise _DamageError(f"it claims {n_eos_ids} end tokens")
    eos_ids += [reader.int("the end tokens") for _ in range(n_eos_ids)]
    try:
        chat_template = template.decode() or None
    except UnicodeDecodeError as error:
        raise _DamageError("its chat template is not UTF-8") from error
    tokens, scores = _tokens(reader, pairs.get(_Key.VOCAB_SIZE, 0))
    return TFile(
        tokens=tokens,
        scores=scores,
        bos_id=_bos_id(pairs.get(_Key.BOS_ID, -1), len(tokens)),
        add_bos=pairs.get(_Key.ADD_BOS, 1) == 1,
        eos_ids=_eos_ids(eos_ids, len(tokens)),
        chat_template=chat_template,
    )


def _parse_old(reader: _Reader) -> TFile:
    vocab_size, _max_token_length, bos_id, eos_id, _pad_id = _OLD_HEADER.unpack(
        reader.take(_OLD_HEADER.size, "the header")
    )
    tokens, scores = _tokens(reader, vocab_size)
    return TFile(
        tokens=tokens,
        scores=scores,
        bos_id=_bos_id(bos_id, len(tokens)),
        add_bos=True,
        eos_ids=_eos_ids([] if eos_id < 0 else [eos_id], len(tokens)),
        chat_template=None,
    )


def _header_pairs(reader: _Reader) -> tuple[dict[_Key, int], list[int]]:
    """The pairs, but for the two old keys that each hold one end token; and those end tokens."""
    size = reader.int("the header's size")
    if size < _PAIR.size or size % _PAIR.size:
        raise _DamageError(f"its header has a size of {size}")
    header = reader.take(size - _PAIR.size, "the header")
    pairs: dict[_Key, int] = {}
    eos_ids = []
    for number, value in _PAIR.iter_unpack(header):
        try:
            key = _Key(number)
        except ValueError:
            raise _DamageError(f"it has the unknown header key {number}") from None
        if key in (_Key.EOS_ID, _Key.CHAT_EOS_ID):
            eos_ids.append(value)
        else:
            pairs[key] = value
    return pairs, eos_ids


def _tokens(reader: _Reader, vocab_size: int) -> tuple[list[bytes], list[float]]:
    if not 0 < vocab_size <= reader.n_left // _TOKEN.size:
        raise _DamageError(
            f"it claims {vocab_size} tokens and has room for {reader.n_left // _TOKEN.size} at most"
        )
    content, position = reader.content, reader.position
    tokens, scores = [], []
    end = len(content)
    for token_id in range(vocab_size):
        if position + _TOKEN.size > end:
            raise _DamageError(f"it ends in the middle of token {token_id} of {vocab_size}")
        score, length = _TOKEN.unpack_from(content, position)
        position += _TOKEN.size
        if not 0 <= length <= end - position:
            raise _DamageError(f"token {token_id} of {vocab_size} claims {length} bytes")
        tokens.append(content[position : position + length])
        scores.append(score)
        position += length
    if position < end:
        raise _DamageError(f"{end - position} bytes follow its last token")
    if not all(map(math.isfinite, scores)):
        raise _DamageError("it has a score that is no number")
    return tokens, scores


def _bos_id(bos_id: int, vocab_size: int) -> int | None:
    if bos_id >= vocab_size:
        raise _DamageError(f"its first token is {bos_id} of {vocab_size}")
    return bos_id if bos_id >= 0 else None


def _eos_ids(eos_ids: list[int], vocab_size: int) -> tuple[int, ...]:
    for eos_id in eos_ids:
        if not 0 <= eos_id < vocab_size:
            raise _DamageError(f"its end token is {eos_id} of {vocab_size}")
    return tuple(dict.fromkeys(eos_ids))
