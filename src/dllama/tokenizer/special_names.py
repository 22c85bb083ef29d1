"""The names of special tokens, found in text."""

from __future__ import annotations

import re
from collections.abc import Mapping


class SpecialNames:
    """Finds any of the names; the longest where several begin at one place."""

    def __init__(self, ids: Mapping[str, int]) -> None:
        self._ids = ids
        names = sorted(filter(None, ids), key=len, reverse=True)
        self._any = "|".join(map(re.escape, names)) or "(?!)"  # without names what never matches
        self._pattern = re.compile(f"({self._any})")
        self._initial = re.compile(f"(?=(?:{self._any})).", re.DOTALL)

    def are_in(self, text: str) -> bool:
        return self._pattern.search(text) is not None

    def initials(self, text: str) -> set[str]:
        """The characters with which a name begins somewhere in `text`; names may overlap."""
        return set(self._initial.findall(text))

    def replace_initials(self, text: str, replacements: Mapping[str, str]) -> str:
        """`text` with the first character of every name replaced."""
        return self._initial.sub(lambda found: replacements[found[0]], text)

    def split(self, text: str) -> list[str | int]:
        """The text between the names, with the names as their ids."""
        parts = self._pattern.split(text)
        return [self._ids[part] if number % 2 else part for number, part in enumerate(parts)]
