"""The header of a GGUF file (github.com/ggml-org/ggml, docs/gguf.md), versions 2 and 3, which differ in nothing here.

"GGUF"; uint32 version; uint64 number of tensors; uint64 number of metadata keys; for each key its name, uint32 type of
its value, and the value; for each tensor its name, uint32 number of dimensions, those as uint64 with the fastest first,
uint32 type, uint64 offset. The data begins at the next multiple of `general.alignment` (32); offsets count from there.
A text is its length as uint64 and UTF-8; an array is the type of its items, their number as uint64, and the items.

Nothing here believes a number before the file is known to be as large: what is allocated is bounded by the file's size
and by the limits below.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import operator
import struct
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from dllama.dtypes import ElementType
from dllama.formats.gguf.metadata import LENGTH, Texts, Value, ValueType
from dllama.formats.gguf.types import REMOVED, GgmlType
from dllama.plain_text import LONGEST_NAME, plain_line

MAGIC = b"GGUF"
VERSION = 3
OLDEST_VERSION = 2
DEFAULT_ALIGNMENT = 32
ALIGNMENT_KEY = "general.alignment"
MOST_DIMS = 4

# The largest models have some 2000 tensors and 100 keys; a tokenizer.json of 35 MB may be one of the texts.
_MOST_TENSORS = 1 << 16
_MOST_KEYS = 1 << 16
_MOST_TEXTS_OF_A_LIST = 1 << 23
_LONGEST_NAME_BYTES = (1 << 16) - 1
_MOST_TEXT_BYTES = 1 << 26

_START = struct.Struct("<4sI")
_COUNTS = struct.Struct("<QQ")
_NUMBER = struct.Struct("<I")
_ARRAY = struct.Struct("<IQ")
_SHAPE_AND_PLACE = tuple(struct.Struct(f"<{n_dims}QIQ") for n_dims in range(MOST_DIMS + 1))
_TYPES: Mapping[int, tuple[GgmlType, int, int]] = MappingProxyType(
    {int(each): (each, each.block, each.block_bytes) for each in GgmlType}
)
_SCALARS: Mapping[int, struct.Struct] = MappingProxyType(
    {
        ValueType.UINT8: struct.Struct("<B"),
        ValueType.INT8: struct.Struct("<b"),
        ValueType.UINT16: struct.Struct("<H"),
        ValueType.INT16: struct.Struct("<h"),
        ValueType.UINT32: struct.Struct("<I"),
        ValueType.INT32: struct.Struct("<i"),
        ValueType.FLOAT32: struct.Struct("<f"),
        ValueType.UINT64: struct.Struct("<Q"),
        ValueType.INT64: struct.Struct("<q"),
        ValueType.FLOAT64: struct.Struct("<d"),
        ValueType.BOOL: struct.Struct("<B"),
    }
)
_OLD_MAGICS = (b"lmgg", b"fmgg", b"tjgg", b"algg")  # GGML, GGMF, GGJT, GGLA


class HeaderError(Exception):
    """What is wrong with a file, without its name, and the way out."""

    def __init__(self, what: str, way_out: str = "download it again") -> None:
        super().__init__(f"{what}; {way_out}")


def _damaged(what: str) -> HeaderError:
    return HeaderError(f"its header is damaged: {what}")


@dataclasses.dataclass(frozen=True, slots=True)
class GgufTensor:
    """Where a tensor lies. `start` and `stop` count bytes from the beginning of its file."""

    name: str
    shape: tuple[int, ...]
    """Row-major, a row last: a matrix is `(n_out, n_in)`. The file has it the other way round."""
    type: GgmlType
    start: int
    stop: int

    @property
    def element_type(self) -> ElementType | None:
        """None for types that are none of dllama's own."""
        return self.type.element_type

    @property
    def row_bytes(self) -> int:
        return self.shape[-1] // self.type.block * self.type.block_bytes


@dataclasses.dataclass(frozen=True)
class Header:
    metadata: dict[str, Value]
    tensors: dict[str, GgufTensor]
    data_start: int


def parse_header(data: memoryview) -> Header:
    """The header of the file whose bytes are `data`. Raises HeaderError unless all of it is sound and all tensors are
    in the file. Arrays and long lists of the metadata are views of `data`."""
    cursor = _Cursor(data)
    _check_start(data)
    cursor.at = _START.size
    n_tensors, n_keys = cursor.take(_COUNTS)
    if n_tensors > _MOST_TENSORS or n_keys > _MOST_KEYS:
        raise _damaged(f"it would have {n_tensors} tensors and {n_keys} keys")
    metadata: dict[str, Value] = {}
    for _ in range(n_keys):
        key = cursor.name("a key")
        if key in metadata:
            raise _damaged(f"the key {_shown(key)} occurs twice")
        metadata[key] = _parse_value(cursor, key)
    alignment = _alignment(metadata)
    found = [_parse_tensor(cursor, alignment) for _ in range(n_tensors)]
    data_start = cursor.at + -cursor.at % alignment
    tensors = {
        name: GgufTensor(name, shape, ggml_type, data_start + offset, data_start + offset + n_bytes)
        for name, shape, ggml_type, offset, n_bytes in found
    }
    if len(tensors) != len(found):
        raise _damaged(_twice([name for name, *_ in found]))
    _check_cover(list(tensors.values()), len(data))
    return Header(metadata, tensors, data_start)


class _Cursor:
    """A position in the file's bytes; every read is checked against their end."""

    def __init__(self, data: memoryview) -> None:
        self.data = data
        self.n_bytes = len(data)
        self.at = 0
        self.text_bytes = 0

    def take(self, layout: struct.Struct) -> tuple[Any, ...]:
        return layout.unpack_from(self.data, self.skip(layout.size))

    def skip(self, n_bytes: int) -> int:
        """Goes on by `n_bytes`, and returns where they begin."""
        at = self.at
        if n_bytes > self.n_bytes - at:
            raise HeaderError(
                f"is truncated or damaged: at byte {at} its header needs {n_bytes} bytes, and the file ends after"
                f" {self.n_bytes}"
            )
        self.at = at + n_bytes
        return at

    def text(self) -> bytes:
        (n_bytes,) = self.take(LENGTH)
        at = self.skip(n_bytes)
        self.text_bytes += n_bytes
        if self.text_bytes > _MOST_TEXT_BYTES:
            raise _damaged(f"it would have texts of more than {_MOST_TEXT_BYTES >> 20} MiB")
        return bytes(self.data[at : self.at])

    def name(self, what: str) -> str:
        text = self.text()
        if len(text) > _LONGEST_NAME_BYTES:
            raise _damaged(f"{what} has {len(text)} bytes")
        try:
            return text.decode()
        except UnicodeDecodeError as error:
            raise _damaged(f"{what} is not UTF-8 ({text[:LONGEST_NAME]!r})") from error


def _check_start(data: memoryview) -> None:
    head = bytes(data[: _START.size])
    if head[:4] in _OLD_MAGICS:
        raise HeaderError(
            "is a model of before GGUF (GGML, of 2023), which is not read", "download it as GGUF"
        )
    if not head.startswith(MAGIC):
        raise HeaderError(f"is no GGUF file (it begins with {head[:4]!r})")
    if len(head) < _START.size:
        raise HeaderError(f"is truncated: it has {len(head)} bytes")
    _, version = _START.unpack(head)
    if version & 0xFFFF == 0 and version:
        raise HeaderError(
            "is a GGUF file for big-endian computers, which is not read", "download the usual one"
        )
    if version < OLDEST_VERSION:
        raise HeaderError(
            f"is a GGUF file of version {version}, of 2023, which is not read", "download a newer one"
        )
    if version > VERSION:
        raise HeaderError(
            f"is a GGUF file of version {version}, and known are {OLDEST_VERSION} and {VERSION}",
            "it is damaged or newer than this program",
        )


def _parse_value(cursor: _Cursor, key: str) -> Value:
    (number,) = cursor.take(_NUMBER)
    if number == ValueType.STRING:
        return cursor.text().decode("utf-8", "replace")
    if number == ValueType.ARRAY:
        return _parse_array(cursor, key)
    value: Value = cursor.take(_layout(number, key))[0]
    if number != ValueType.BOOL:
        return value
    if value not in (0, 1):
        raise _damaged(f"{_shown(key)} is {value}, and only true and false are possible")
    return bool(value)


def _layout(number: int, key: str) -> struct.Struct:
    layout = _SCALARS.get(number)
    if layout is None:
        raise _damaged(f"{_shown(key)} has a value of type {number}; known are 0 to {max(ValueType)}")
    return layout


def _parse_array(cursor: _Cursor, key: str) -> NDArray[Any] | Texts:
    number, n = cursor.take(_ARRAY)
    if number == ValueType.STRING:
        return _parse_texts(cursor, key, n)
    if number == ValueType.ARRAY:
        raise HeaderError(
            f"{_shown(key)} is a list of lists, which no known model has", "convert the model anew"
        )
    layout = _layout(number, key)
    at = cursor.skip(n * layout.size)
    if n == 0:
        return np.empty(0, layout.format)
    values: NDArray[Any] = np.frombuffer(cursor.data, layout.format, n, at)
    if number == ValueType.BOOL:
        if values.max() > 1:
            raise _damaged(f"{_shown(key)} has more than true and false in it")
        return values.view(np.bool_)
    return values


def _parse_texts(cursor: _Cursor, key: str, n: int) -> Texts:
    begin, data, last = cursor.at, cursor.data, cursor.n_bytes - LENGTH.size
    if n > _MOST_TEXTS_OF_A_LIST:
        raise _damaged(f"{_shown(key)} would be a list of {n} texts")
    at, length_at = begin, LENGTH.unpack_from
    for _ in range(n):  # 0.1 us each, and a vocabulary has 260 000
        if at > last:
            break
        at += LENGTH.size + length_at(data, at)[0]
    else:
        if at <= cursor.n_bytes:
            cursor.at = at
            return Texts(data[begin:at], n)
    raise HeaderError(
        f"is truncated or damaged: {_shown(key)} is a list of {n} texts that begins at byte {begin}, and the file ends"
        f" after {cursor.n_bytes}"
    )


def _alignment(metadata: Mapping[str, Value]) -> int:
    alignment = metadata.get(ALIGNMENT_KEY, DEFAULT_ALIGNMENT)
    if type(alignment) is not int or alignment <= 0 or alignment & (alignment - 1):
        raise _damaged(f"{ALIGNMENT_KEY} is {_shown(repr(alignment))}, no power of two")
    return alignment


def _parse_tensor(cursor: _Cursor, alignment: int) -> tuple[str, tuple[int, ...], GgmlType, int, int]:
    """Name, shape, type, place counted from the beginning of the data, and bytes. Some 2 us: there may be 40 000."""
    name = cursor.name("a tensor's name")
    (n_dims,) = cursor.take(_NUMBER)
    if not 1 <= n_dims <= MOST_DIMS:
        raise _damaged(f"{_shown(name)} has {n_dims} dimensions, not 1 to {MOST_DIMS}")
    *dims, number, offset = cursor.take(_SHAPE_AND_PLACE[n_dims])
    known = _TYPES.get(number)
    ggml_type, block, block_bytes = known if known is not None else _unknown_type(number, name)
    shape = tuple(dims[::-1])
    n_elements = math.prod(dims)
    if n_elements == 0 or dims[0] % block:
        why = "no elements" if n_elements == 0 else f"rows that are no whole blocks of {block}"
        raise _damaged(f"{_shown(name)}, {ggml_type.name} of shape {list(shape)}, has {why}")
    if offset % alignment:
        raise _damaged(f"{_shown(name)} begins at {offset}, no multiple of {alignment} ({ALIGNMENT_KEY})")
    return name, shape, ggml_type, offset, n_elements // block * block_bytes


def _unknown_type(number: int, name: str) -> NoReturn:
    if number in REMOVED:
        raise HeaderError(
            f"{_shown(name)} is {REMOVED[number]} (type {number}), which llama.cpp dropped and dllama does not read",
            "download the model in another type",
        )
    known = ", ".join(ggml_type.name for ggml_type in GgmlType)
    raise HeaderError(
        f"{_shown(name)} has the unknown type {number}, and known are {known}",
        "it is damaged or newer than this program",
    )


def _twice(names: list[str]) -> str:
    first = next(name for name, following in itertools.pairwise(sorted(names)) if name == following)
    return f"two tensors have the name {_shown(first)}"


def _check_cover(tensors: list[GgufTensor], n_bytes: int) -> None:
    """Holes and what follows the last tensor may be."""
    in_order = sorted(tensors, key=operator.attrgetter("start"))
    for before, tensor in itertools.pairwise(in_order):
        if tensor.start < before.stop:
            n_shared = before.stop - tensor.start
            raise _damaged(
                f"{_shown(tensor.name)} begins {n_shared} bytes before the end of {_shown(before.name)}"
            )
    if in_order and in_order[-1].stop > n_bytes:
        raise HeaderError(
            f"is truncated: its tensors end at byte {in_order[-1].stop}, the file has {n_bytes} bytes"
        )


def _shown(name: str) -> str:
    return plain_line(name, LONGEST_NAME)
