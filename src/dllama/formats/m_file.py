"""The `.m` model file of Distributed Llama: header and bytes (docs/formats.md).

A file is the magic, the header's size in bytes, pairs of (key, value), all little-endian int32, then the
tensors without padding. Until early 2024 a file of a Llama began with 0xABCD00 and nine values without keys, and did
not say which type its weights have. Keys 0 to 21 and their meaning are those of `src/llm.hpp` and `src/llm.cpp` of
github.com/b4rtaz/distributed-llama.

dllama's own keys, from 0xD11A00 up, say what these cannot: they are written only where they are needed, and a
file that has one is refused by Distributed Llama ("Unsupported header key") rather than misread.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dllama.errors import ModelFileError, UnsupportedModelError
from dllama.formats.mapped import MappedFile
from dllama.formats.t_file import is_t_file

MAGIC = 0xA00ABCD
_OLD_LLAMA, _OLD_GROK = 0xABCD00, 0xABCD01
"""Architectures, which stood in the magic's place."""
_START = struct.Struct("<ii")
_PAIR = struct.Struct("<ii")
# Nothing that writes `.m` files comes near: 22 keys of its own and these of dllama.
_MOST_PAIRS = 256


class MKey(enum.IntEnum):
    """The number before each value of the header."""

    VERSION = 0
    ARCHITECTURE = 1
    DIM = 2
    FFN_DIM = 3
    N_LAYERS = 4
    N_HEADS = 5
    N_KV_HEADS = 6
    N_EXPERTS = 7
    N_ACTIVE_EXPERTS = 8
    VOCAB_SIZE = 9
    MAX_SEQ_LEN = 10
    ACTIVATION = 11
    ROPE_THETA = 12
    WEIGHT_TYPE = 13
    ROPE_SCALING_FACTOR = 14
    ROPE_LOW_FREQ_FACTOR = 15
    ROPE_HIGH_FREQ_FACTOR = 16
    ROPE_ORIGINAL_MAX_SEQ_LEN = 17
    ROPE_TYPE = 18
    HEAD_DIM = 19
    NORM_EPSILON = 20
    MOE_FFN_DIM = 21
    # dllama's own, which Distributed Llama refuses; the first five: the bits of a float32 where the whole numbers
    # above cannot say it
    NORM_EPSILON_BITS = 0xD11A00
    ROPE_THETA_BITS = 0xD11A01
    ROPE_SCALING_FACTOR_BITS = 0xD11A02
    ROPE_LOW_FREQ_FACTOR_BITS = 0xD11A03
    ROPE_HIGH_FREQ_FACTOR_BITS = 0xD11A04
    # YaRN, beside the factor and the original context above; the first three are bits of a float32
    YARN_BETA_FAST_BITS = 0xD11A05
    YARN_BETA_SLOW_BITS = 0xD11A06
    YARN_ATTENTION_FACTOR_BITS = 0xD11A07
    YARN_TRUNCATE = 0xD11A08
    # 1: the scaling of rope type 2, though pairs are in halves
    ROPE_SCALED_HALVES = 0xD11A09


FIRST_OWN_KEY = MKey.NORM_EPSILON_BITS


def encode_header(pairs: Iterable[tuple[MKey, int]]) -> bytes:
    """Magic, size and pairs. Values must fit int32 (struct.error otherwise)."""
    body = b"".join(_PAIR.pack(key, value) for key, value in pairs)
    return _START.pack(MAGIC, _START.size + len(body)) + body


_OLD_KEYS = (
    MKey.DIM, MKey.FFN_DIM, MKey.N_LAYERS, MKey.N_HEADS, MKey.N_KV_HEADS, MKey.N_EXPERTS, MKey.N_ACTIVE_EXPERTS,
    MKey.VOCAB_SIZE, MKey.MAX_SEQ_LEN,
)  # fmt: skip
_OLD_HEADER = struct.Struct(f"<{1 + len(_OLD_KEYS)}i")


class MFile:
    """A mapped `.m` file: `pairs` of its header, `tensor_bytes` uint8 [n] of all that follows."""

    def __init__(self, path: Path) -> None:
        """Raises ModelFileError for what is missing or damaged, UnsupportedModelError for old formats."""
        self.path = path
        self._map = MappedFile(path)
        self.pairs, self.header_bytes = _decode_header(self._map.bytes, path)
        self.file_bytes = len(self._map.bytes)

    @property
    def is_old(self) -> bool:
        """Whether it is of early 2024, when no header said which type weights have."""
        magic: int = _START.unpack(self._map.bytes[: _START.size].tobytes())[0]
        return magic != MAGIC

    @property
    def tensor_bytes(self) -> NDArray[np.uint8]:
        return self._map.bytes[self.header_bytes :]

    def let_go(self) -> None:
        self._map.let_go()

    def check(self) -> None:
        """See MappedFile.check."""
        self._map.check()

    def close(self) -> None:
        self._map.close()


def _decode_header(data: NDArray[np.uint8], path: Path) -> tuple[dict[MKey, int], int]:
    """The pairs, and the header's size in bytes."""
    if len(data) < _START.size:
        raise ModelFileError(f"{path}: is no .m model file ({len(data)} bytes)")
    magic, header_bytes = _START.unpack(data[: _START.size].tobytes())
    if magic in (_OLD_LLAMA, _OLD_GROK):
        return _decode_old_header(data, path), _OLD_HEADER.size
    if is_t_file(data[: _START.size].tobytes()):
        raise ModelFileError(f"{path}: is a .t tokenizer file; give the model's .m file or directory")
    if magic != MAGIC:
        raise ModelFileError(
            f"{path}: is no .m model file (it begins with 0x{magic & 0xFFFFFFFF:X}, not 0x{MAGIC:X})"
        )
    body_bytes = header_bytes - _START.size
    if body_bytes < 0 or body_bytes % _PAIR.size or body_bytes > _MOST_PAIRS * _PAIR.size:
        raise ModelFileError(f"{path}: its header is damaged: it cannot have {header_bytes} bytes")
    if header_bytes > len(data):
        raise ModelFileError(
            f"{path}: is truncated: its header needs {header_bytes} bytes, the file has {len(data)}"
        )
    pairs: dict[MKey, int] = {}
    for number, value in _PAIR.iter_unpack(data[_START.size : header_bytes].tobytes()):
        key = _known_key(number, path)
        if key in pairs:
            raise ModelFileError(f"{path}: its header is damaged: the key {number} ({key.name}) occurs twice")
        pairs[key] = value
    return pairs, header_bytes


def _decode_old_header(data: NDArray[np.uint8], path: Path) -> dict[MKey, int]:
    if len(data) < _OLD_HEADER.size:
        raise ModelFileError(
            f"{path}: is truncated: its header needs {_OLD_HEADER.size} bytes, the file has {len(data)}"
        )
    architecture, *values = _OLD_HEADER.unpack(data[: _OLD_HEADER.size].tobytes())
    pairs = {MKey.ARCHITECTURE: architecture, **dict(zip(_OLD_KEYS, values, strict=True))}
    if architecture == _OLD_GROK or pairs[MKey.N_EXPERTS]:
        raise UnsupportedModelError(
            f"{path}: is a mixture of experts (Grok-1, Mixtral) of Distributed Llama 0.10 or older, which is not read;"
            " convert the model again with dllama convert"
        )
    return pairs


def _known_key(number: int, path: Path) -> MKey:
    try:
        return MKey(number)
    except ValueError as error:
        raise ModelFileError(
            f"{path}: the header has the unknown key {number}; known are 0 to {MKey.MOE_FFN_DIM}"
            f" and dllama's {int(FIRST_OWN_KEY)} to {int(max(MKey))}."
            " The file is damaged or newer than this program"
        ) from error
