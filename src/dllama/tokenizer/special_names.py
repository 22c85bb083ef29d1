"""The names of special tokens, found in text."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Mapping


class SpecialNames:
    """Finds any of the names; the longest where several begin at one place."""

    def __init__(self, ids: Mapping[str, int]) -> None:
        self._ids = ids
        names = [name for name in ids if name]
        try:
            self._compile(_any_of(names) if names else "(?!)")  # which never matches
        except RecursionError:  # hundreds of names that begin one another
            self._compile("|".join(re.escape(name) for name in sorted(names, key=len, reverse=True)))

    def _compile(self, any_of: str) -> None:
        self._pattern = re.compile(f"({any_of})")
        self._initial = re.compile(f"(?=(?:{any_of})).", re.DOTALL)

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


def _any_of(names: Collection[str]) -> str:
    """A pattern of any of the names, the longest where one begins another.

    Common beginnings stand once: with a thousand names side by side, each place where they might begin would cost a
    thousand comparisons.
    """
    begins: dict[str, list[str]] = {}
    for name in names:
        if name:
            begins.setdefault(name[0], []).append(name)
    branches = []
    for group in begins.values():
        prefix = os.path.commonprefix(group)  # noqa: RUF071 - by characters, as it is wanted
        rest = _any_of([name[len(prefix) :] for name in group]) if len(group) > 1 else ""
        branches.append(re.escape(prefix) + rest)
    if not branches:
        return ""
    alternatives = f"(?:{'|'.join(branches)})"
    return f"{alternatives}?" if "" in names else alternatives
