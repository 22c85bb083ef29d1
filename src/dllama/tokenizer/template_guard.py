"""Hides the names of special tokens in what users wrote, and brings them back.

The special tokens that a template writes become special ids; the same characters inside a message do not.
Before rendering, the first character of every special token's name within a message is replaced by a stand-in
from a private-use plane; the rendered text is cut at the special tokens that are still there, and in the rest
the stand-ins are turned back.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from dllama.errors import TokenizerError
from dllama.tokenizer.special_names import SpecialNames

_PRIVATE_PLANE = range(0x10FFFD, 0x100000, -1)


class TemplateGuard:
    """For one rendering."""

    def __init__(self, names: SpecialNames, given: object, template: str) -> None:
        """`given` is all that comes from outside; stand-ins are characters that are neither in it nor in `template`."""
        strings = _strings(given)
        initials = {
            initial for string in strings if names.are_in(string) for initial in names.initials(string)
        }
        self._names = names
        self._unused = _unused_characters([template, *strings])
        self._stand_in = {initial: self.unused_character() for initial in sorted(initials)}
        self._restoring = {ord(stand_in): initial for initial, stand_in in self._stand_in.items()}

    def unused_character(self) -> str:
        """Another one that is nowhere else. Raises TokenizerError when the conversation has them all."""
        try:
            return next(self._unused)
        except StopIteration:
            raise TokenizerError("the conversation has every private-use character in it") from None

    def hide(self, value: Any) -> Any:
        """`value` with all its strings, at any depth, made harmless. Nothing is mutated."""
        if not self._stand_in:
            return value
        if isinstance(value, str):
            return self._names.replace_initials(value, self._stand_in)
        if isinstance(value, Mapping):
            return {self.hide(key): self.hide(item) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [self.hide(item) for item in value]
        return value

    def restore(self, text: str) -> str:
        return text.translate(self._restoring) if self._restoring else text


def _unused_characters(texts: Iterable[str]) -> Iterator[str]:
    """Characters of a private-use plane that are in none of `texts`, which are looked at when the first is wanted."""
    taken = set().union(*texts)
    yield from (character for character in map(chr, _PRIVATE_PLANE) if character not in taken)


def _strings(value: object) -> list[str]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, Mapping):
        return [string for pair in value.items() for item in pair for string in _strings(item)]
    if isinstance(value, (list, tuple)):
        return [string for item in value for string in _strings(item)]
    return []
