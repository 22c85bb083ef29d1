"""The numbers of a model by the names that config.json has for them, each of the type that it has to have. Readers of
other formats say theirs by the same names."""

from __future__ import annotations

import dataclasses
import math
import reprlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dllama.errors import ModelFileError, UnsupportedModelError

_MISSING = object()


@dataclasses.dataclass(frozen=True)
class Keys:
    """Typed access to a JSON object; every fault is a ModelFileError that names file and key. null is as if absent."""

    values: Mapping[str, Any]
    path: Path

    def with_defaults(self, **defaults: Any) -> Keys:
        """These, where a key is not there at all; null is then none."""
        return Keys({**defaults, **self.values}, self.path)

    def replaced(self, **values: Any) -> Keys:
        """These in place of what is there."""
        return Keys({**self.values, **values}, self.path)

    def get(self, key: str, default: Any = _MISSING) -> Any:
        value = self.values.get(key)
        if value is not None:
            return value
        if default is _MISSING:
            raise ModelFileError(f"{self.path}: the key {key!r} is missing")
        return default

    def whole(self, key: str, default: Any = _MISSING) -> int:
        value = self.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int):
            raise ModelFileError(f"{self.path}: {key} must be a whole number, not {reprlib.repr(value)}")
        if abs(value) >= 1 << 63:
            raise ModelFileError(f"{self.path}: {key} is {reprlib.repr(value)}, which cannot be")
        return value

    def number(self, key: str, default: Any = _MISSING) -> float:
        value = self.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ModelFileError(f"{self.path}: {key} must be a number, not {reprlib.repr(value)}")
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        if not math.isfinite(number):
            raise ModelFileError(f"{self.path}: {key} must be a finite number, not {reprlib.repr(value)}")
        return number

    def flag(self, key: str, default: bool = False) -> bool:
        value = self.get(key, default)
        if not isinstance(value, bool):
            raise ModelFileError(f"{self.path}: {key} must be true or false, not {reprlib.repr(value)}")
        return value

    def table(self, key: str) -> Keys | None:
        value = self.get(key, None)
        if value is not None and not isinstance(value, dict):
            raise ModelFileError(f"{self.path}: {key} must be an object, not {reprlib.repr(value)}")
        return None if value is None else Keys(value, self.path)

    def unsupported(self, what: str) -> UnsupportedModelError:
        return UnsupportedModelError(f"{self.path}: {what}")
