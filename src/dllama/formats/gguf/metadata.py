"""The metadata of a GGUF file: values by key, arrays as views of the map."""

from __future__ import annotations

import enum
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from dllama.errors import ModelFileError
from dllama.plain_text import LONGEST_NAME, plain_line

LENGTH = struct.Struct("<Q")


class ValueType(enum.IntEnum):
    """The number before each value."""

    UINT8 = 0
    INT8 = 1
    UINT16 = 2
    INT16 = 3
    UINT32 = 4
    INT32 = 5
    FLOAT32 = 6
    BOOL = 7
    STRING = 8
    ARRAY = 9
    UINT64 = 10
    INT64 = 11
    FLOAT64 = 12


class Texts:
    """A long list of texts as it lies in the file. Nothing is read or kept before it is asked for."""

    def __init__(self, data: memoryview, n: int) -> None:
        """`data`: n times a length and as many bytes, which was checked."""
        self._data = data
        self._n = n

    def __len__(self) -> int:
        return self._n

    def __iter__(self) -> Iterator[bytes]:
        return iter(self.as_bytes())

    def as_bytes(self) -> list[bytes]:
        """All of them: the bytes as they are, which need not be UTF-8."""
        data, length_at, at = bytes(self._data), LENGTH.unpack_from, 0
        found = []
        for _ in range(self._n):
            begin = at + LENGTH.size
            at = begin + length_at(data, at)[0]
            found.append(data[begin:at])
        return found

    def as_text(self) -> list[str]:
        """All of them as text; what is no UTF-8 is replaced by U+FFFD."""
        return [text.decode("utf-8", "replace") for text in self.as_bytes()]


Value = bool | int | float | str | NDArray[Any] | Texts
Kind = TypeVar("Kind")

_NAMES: Mapping[type, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a text",
    np.ndarray: "a list of numbers",
    Texts: "a list of texts",
}


class Metadata(Mapping[str, Value]):
    """Values by key: bool, int, float, str (what is no UTF-8 replaced by U+FFFD); lists of numbers as a read-only NumPy
    array, which is a view of the map; lists of texts as Texts. `need` and `find` check the kind: one of bool, int,
    float, str, np.ndarray and Texts."""

    def __init__(self, path: Path, values: Mapping[str, Value]) -> None:
        """`path` is named in errors."""
        self.path = path
        self._values = values

    def __getitem__(self, key: str) -> Value:
        return self._values[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def need(self, key: str, kind: type[Kind]) -> Kind:
        """The value. Raises ModelFileError when there is none, or one of another kind. A whole number is a float
        too; true and false are no numbers."""
        value = self.find(key, kind)
        if value is None:
            raise ModelFileError(f"{self.path}: its metadata has no {key}; convert the model again")
        return value

    def find(self, key: str, kind: type[Kind]) -> Kind | None:
        """The value, None when there is none. Raises ModelFileError when it is of another kind."""
        value = self._values.get(key)
        if value is None:
            return None
        if kind is float and type(value) is int:
            value = float(value)
        if (kind is int and isinstance(value, bool)) or not isinstance(value, kind):
            raise ModelFileError(
                f"{self.path}: {plain_line(key, LONGEST_NAME)} is {self._shown(value)}, not {_NAMES[kind]};"
                " convert the model again"
            )
        return value

    @staticmethod
    def _shown(value: Value) -> str:
        if isinstance(value, np.ndarray):
            return _NAMES[np.ndarray]
        return _NAMES[Texts] if isinstance(value, Texts) else plain_line(repr(value), LONGEST_NAME)
