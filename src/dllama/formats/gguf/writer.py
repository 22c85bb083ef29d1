"""Writes GGUF files that llama.cpp reads: version 3, tensors in the order of the table without holes, each padded to 32
bytes, the last one too."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import struct
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from dllama.formats.atomic import require_free_space, write_atomically
from dllama.formats.gguf.header import DEFAULT_ALIGNMENT, MAGIC, MOST_DIMS, VERSION, parse_header
from dllama.formats.gguf.metadata import LENGTH, Texts, Value, ValueType
from dllama.formats.gguf.types import GgmlType

NewValue = bool | int | float | str | np.generic | NDArray[Any] | Sequence[str] | Sequence[bytes] | Texts
"""What a key may be written with. A whole number becomes uint32, as llama.cpp wants nearly all of them, and what is
negative or larger becomes the int32, uint64 or int64 that holds it; a float becomes float32. NumPy's scalars and arrays
keep their own types."""

_LONGEST_TENSOR_NAME = 63  # llama.cpp's GGML_MAX_NAME has 64 bytes with a zero
_NUMBER = struct.Struct("<I")
_COUNTS = struct.Struct("<4sIQQ")
_PLACE = struct.Struct("<IQ")
_ARRAY = struct.Struct("<IIQ")
_KINDS: Mapping[str, ValueType] = {
    "uint8": ValueType.UINT8,
    "int8": ValueType.INT8,
    "uint16": ValueType.UINT16,
    "int16": ValueType.INT16,
    "uint32": ValueType.UINT32,
    "int32": ValueType.INT32,
    "float32": ValueType.FLOAT32,
    "bool": ValueType.BOOL,
    "uint64": ValueType.UINT64,
    "int64": ValueType.INT64,
    "float64": ValueType.FLOAT64,
}


@dataclasses.dataclass(frozen=True)
class NewTensor:
    """A tensor to be written. `shape` is row-major: `(n_out, n_in)`."""

    name: str
    shape: tuple[int, ...]
    type: GgmlType

    @property
    def n_bytes(self) -> int:
        return math.prod(self.shape) // self.type.block * self.type.block_bytes


class GgufWriter:
    """Takes the bytes of the tensors, in the order of the table and each in as many pieces as they come in."""

    def __init__(self, file: BinaryIO, tensors: Sequence[NewTensor]) -> None:
        self._file = file
        self._remaining = [(tensor.name, tensor.n_bytes) for tensor in reversed(tensors)]
        self._left_bytes = 0

    def write(self, name: str, piece: NDArray[np.uint8]) -> None:
        """The next bytes of the tensor `name`. Another tensor before this one is whole, and more bytes than it has, are
        mistakes of the caller (asserted)."""
        expected, n_bytes = self._remaining[-1]
        assert name == expected, f"{name} is written, and {expected} is next"
        left = (self._left_bytes or n_bytes) - piece.nbytes
        assert left >= 0, f"{name} is written {-left} bytes longer than it is"
        self._file.write(np.ascontiguousarray(piece).data)
        self._left_bytes = left
        if left == 0:
            self._file.write(_padding(n_bytes))
            self._remaining.pop()

    def check_whole(self) -> None:
        assert not self._remaining, f"{self._remaining[-1][0]} was not written"


@contextlib.contextmanager
def write_gguf(
    path: Path, metadata: Mapping[str, NewValue], tensors: Sequence[NewTensor]
) -> Iterator[GgufWriter]:
    """A writer for the tensors' bytes; when the block ends the file is at `path`, whole. Memory does not grow with the
    model.

    A block that is left by an exception leaves no file behind, and an older one as it was. Raises NotEnoughDiskError
    before the first byte, and what write_atomically raises.
    """
    header = encode_header(metadata, tensors)
    require_free_space(path, len(header) + sum(_padded(tensor.n_bytes) for tensor in tensors))
    with write_atomically(path) as file:
        file.write(header)
        writer = GgufWriter(file, tensors)
        yield writer
        writer.check_whole()


def encode_header(metadata: Mapping[str, NewValue], tensors: Sequence[NewTensor]) -> bytes:
    """All that comes before the first tensor's bytes, its padding too."""
    parts = [_COUNTS.pack(MAGIC, VERSION, len(tensors), len(metadata))]
    for key, value in metadata.items():
        parts += [_text(key), _value(value)]
    offset = 0
    for tensor in tensors:
        parts += _table_entry(tensor, offset)
        offset += _padded(tensor.n_bytes)
    header = b"".join(parts)
    return header + (_padding(len(header)) if tensors else b"")


def as_read(metadata: Mapping[str, NewValue]) -> dict[str, Value]:
    """What a file with these keys says of them, without the file."""
    return parse_header(memoryview(encode_header(metadata, []))).metadata


def _table_entry(tensor: NewTensor, offset: int) -> list[bytes]:
    assert 1 <= len(tensor.shape) <= MOST_DIMS, f"{tensor.name}: {tensor.shape}"
    assert min(tensor.shape) > 0, f"{tensor.name}: {tensor.shape}"
    assert tensor.shape[-1] % tensor.type.block == 0, f"{tensor.name}: rows of {tensor.shape[-1]} elements"
    assert len(tensor.name.encode()) <= _LONGEST_TENSOR_NAME, f"{tensor.name} is too long a name"
    dims = struct.pack(f"<I{len(tensor.shape)}Q", len(tensor.shape), *reversed(tensor.shape))
    return [_text(tensor.name), dims, _PLACE.pack(tensor.type, offset)]


def _value(value: NewValue) -> bytes:
    """The number of its type, and the value."""
    if isinstance(value, str):
        return _NUMBER.pack(ValueType.STRING) + _text(value)
    if isinstance(value, np.ndarray):
        kind = _KINDS[value.dtype.name]
        return _ARRAY.pack(ValueType.ARRAY, kind, value.size) + _little_endian(value)
    if isinstance(value, bool | int | float | np.generic):
        one = np.asarray(_sized(value))
        return _NUMBER.pack(_KINDS[one.dtype.name]) + _little_endian(one)
    return _ARRAY.pack(ValueType.ARRAY, ValueType.STRING, len(value)) + b"".join(map(_text, value))


def _sized(value: bool | int | float | np.generic) -> np.generic:
    if isinstance(value, np.generic):
        return value
    if isinstance(value, bool):
        return np.bool_(value)
    if isinstance(value, float):
        return np.float32(value)
    for kind in (np.uint32, np.int32, np.uint64, np.int64):
        if np.iinfo(kind).min <= value <= np.iinfo(kind).max:
            return kind(value)
    raise AssertionError(f"{value} has more than 64 bits")


def _little_endian(values: NDArray[Any]) -> bytes:
    return values.astype(values.dtype.newbyteorder("<"), copy=False).tobytes()


def _text(text: str | bytes) -> bytes:
    data = text.encode() if isinstance(text, str) else text
    return LENGTH.pack(len(data)) + data


def _padded(n_bytes: int) -> int:
    return n_bytes + -n_bytes % DEFAULT_ALIGNMENT


def _padding(n_bytes: int) -> bytes:
    return bytes(-n_bytes % DEFAULT_ALIGNMENT)
