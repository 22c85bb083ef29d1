"""The tensors of safetensors files, mapped.

The format (github.com/huggingface/safetensors): eight bytes with the header's length, a JSON object of
`name: {dtype, shape, data_offsets}`, then the data, without holes or overlaps. A directory has one
`model.safetensors`, or several files and `model.safetensors.index.json` that says which tensor is where.

The library's own reader is not used: it knows no bfloat16 under NumPy, copies what it reads, and keeps its
map to itself, so that pages could not be let go while a model of hundreds of gigabytes streams through.
"""

from __future__ import annotations

import dataclasses
import json
import math
import operator
import os
import reprlib
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dllama.dtypes import ElementType
from dllama.errors import ModelFileError, UnsupportedModelError
from dllama.formats.hf_folders import what_instead
from dllama.formats.mapped import MappedFile
from dllama.formats.plain_files import read_json_object

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"

_LARGEST_HEADER_BYTES = 100_000_000  # the limit of the reference implementation
_LENGTH = struct.Struct("<Q")
_ELEMENT_BYTES = {
    "F64": 8,
    "F32": 4,
    "F16": 2,
    "BF16": 2,
    "I64": 8,
    "I32": 4,
    "I16": 2,
    "I8": 1,
    "U8": 1,
    "BOOL": 1,
}
_ELEMENT_TYPES = {"F32": ElementType.F32, "F16": ElementType.F16, "BF16": ElementType.BF16}


@dataclasses.dataclass(frozen=True)
class StoredTensor:
    """Where a tensor lies. `start` and `stop` count bytes from the beginning of the file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int

    @property
    def element_type(self) -> ElementType | None:
        """None for types that hold no weights that dllama reads."""
        return _ELEMENT_TYPES.get(self.dtype)


class SafetensorsFile:
    """One mapped file: `tensors` by name."""

    def __init__(self, path: Path) -> None:
        """Raises ModelFileError naming the file when it is missing or its header is not sound."""
        self.path = path
        self._map = MappedFile(path)
        self.tensors = _parse_header(self._map.bytes, path)

    def bytes_of(self, name: str) -> NDArray[np.uint8]:
        """The tensor's bytes, uint8 [n], a view of the map."""
        tensor = self.tensors[name]
        return self._map.bytes[tensor.start : tensor.stop]

    def let_go(self) -> None:
        self._map.let_go()

    def check(self) -> None:
        """See MappedFile.check."""
        self._map.check()

    def close(self) -> None:
        self._map.close()


def has_tensors(directory: Path) -> bool:
    """Whether it has files of the names that are looked for."""
    return any(os.path.lexists(directory / name) for name in (SINGLE_FILE, INDEX_FILE))


def open_safetensors_directory(directory: Path) -> dict[str, SafetensorsFile]:
    """Tensor names to the mapped file of each. Raises ModelFileError naming what is missing or bad,
    UnsupportedModelError naming what is there instead."""
    single, index = directory / SINGLE_FILE, directory / INDEX_FILE
    if os.path.lexists(single):
        file = SafetensorsFile(single)
        return dict.fromkeys(file.tensors, file)
    if os.path.lexists(index):
        return _open_shards(index)
    instead = what_instead(directory)
    if instead is not None:
        raise UnsupportedModelError(f"{directory}: {instead}")
    raise ModelFileError(
        f"{directory}: has neither {SINGLE_FILE} nor {INDEX_FILE}; download the model's safetensors files"
    )


def safetensors_header(shapes: Mapping[str, Sequence[int]]) -> bytes:
    """What a file begins with whose float32 tensors follow in this order."""
    entries, at = {}, 0
    for name, shape in shapes.items():
        n_bytes = 4 * math.prod(shape)
        entries[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [at, at + n_bytes]}
        at += n_bytes
    header = json.dumps(entries).encode()
    header += b" " * (-len(header) % 8)  # tensors begin at a multiple of their elements
    return _LENGTH.pack(len(header)) + header


def _open_shards(index: Path) -> dict[str, SafetensorsFile]:
    """All tensors of all files that the index names, whatever it says of each tensor; of two by one name the one
    that it names, as in transformers."""
    where = _read_weight_map(index)
    files = {name: SafetensorsFile(index.parent / name) for name in sorted(set(where.values()))}
    file_of = {name: file for file in files.values() for name in file.tensors}
    for name, file_name in where.items():
        if name in files[file_name].tensors:
            file_of[name] = files[file_name]
    return file_of


def _read_weight_map(index: Path) -> dict[str, str]:
    """Tensor names to the names of files below the index's directory: `./a` is `a`."""
    where = read_json_object(index, ModelFileError).get("weight_map")
    if not isinstance(where, dict) or not where:
        raise ModelFileError(f"{index}: has no weight_map; download it again")
    plain_names: dict[Any, str] = {}  # a few, named by many tensors
    for name, file_name in where.items():
        if isinstance(file_name, str) and file_name in plain_names:
            continue
        plain = PurePosixPath(file_name if isinstance(file_name, str) else "")
        if plain.is_absolute() or ".." in plain.parts or plain.suffix != ".safetensors":
            raise ModelFileError(
                f"{index}: {reprlib.repr(file_name)}, said to hold {name}, is no safetensors file below it"
            )
        plain_names[file_name] = str(plain)
    for file_name in sorted(set(plain_names.values())):
        if not (index.parent / file_name).exists():
            raise ModelFileError(
                f"{index.parent / file_name}: is missing, though {index.name} names it; download it too"
            )
    return {name: plain_names[file_name] for name, file_name in where.items()}


def _parse_header(data: NDArray[np.uint8], path: Path) -> dict[str, StoredTensor]:
    """Raises ModelFileError unless header and data fit each other exactly."""
    n_bytes = len(data)
    if n_bytes < _LENGTH.size:
        raise ModelFileError(f"{path}: is no safetensors file ({n_bytes} bytes); download it again")
    (header_bytes,) = _LENGTH.unpack(data[: _LENGTH.size].tobytes())
    data_start = _LENGTH.size + header_bytes
    if header_bytes > _LARGEST_HEADER_BYTES:
        raise ModelFileError(f"{path}: is no safetensors file (its header would have {header_bytes} bytes)")
    if data_start > n_bytes:
        raise ModelFileError(
            f"{path}: is truncated: the header alone needs {data_start} bytes, the file has {n_bytes};"
            " download it again"
        )
    try:
        header = json.loads(
            data[_LENGTH.size : data_start].tobytes(), object_pairs_hook=_object_without_doubles
        )
    except (UnicodeDecodeError, ValueError, RecursionError) as error:
        raise ModelFileError(
            f"{path}: its safetensors header is damaged ({error}); download it again"
        ) from error
    if not isinstance(header, dict):
        raise ModelFileError(f"{path}: its safetensors header is no JSON object; download it again")
    tensors = {
        name: _parse_entry(name, entry, data_start, path)
        for name, entry in header.items()
        if name != "__metadata__"
    }
    _check_cover(list(tensors.values()), data_start, n_bytes, path)
    return tensors


def _object_without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        raise ValueError("a name occurs twice")
    return values


def _parse_entry(name: str, entry: Any, data_start: int, path: Path) -> StoredTensor:
    try:
        dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    except (TypeError, KeyError):
        dtype = shape = offsets = None
    if not (isinstance(dtype, str) and _are_sizes(shape) and _are_sizes(offsets) and len(offsets) == 2):
        raise ModelFileError(f"{path}: the header's entry for {name} is damaged; download the file again")
    begin, end = offsets
    element_bytes = _ELEMENT_BYTES.get(dtype)
    if begin > end or (element_bytes is not None and end - begin != math.prod(shape) * element_bytes):
        raise ModelFileError(
            f"{path}: the header gives {name} {end - begin} bytes, which do not hold {dtype} of shape {shape};"
            " download the file again"
        )
    return StoredTensor(name, dtype, tuple(shape), data_start + begin, data_start + end)


def _are_sizes(values: Any) -> bool:
    return isinstance(values, list) and {int}.issuperset(map(type, values)) and min(values, default=0) >= 0


def _check_cover(tensors: list[StoredTensor], data_start: int, n_bytes: int, path: Path) -> None:
    at = data_start
    for tensor in sorted(tensors, key=operator.attrgetter("start", "stop")):
        if tensor.start != at:
            what = "overlaps another tensor" if tensor.start < at else "follows a hole"
            raise ModelFileError(
                f"{path}: the header is damaged: {tensor.name} {what}; download the file again"
            )
        at = tensor.stop
    if at != n_bytes:
        what = "truncated" if at > n_bytes else "too long"
        raise ModelFileError(
            f"{path}: is {what}: its tensors end at byte {at}, the file has {n_bytes} bytes;"
            " download it again"
        )
