"""Strings that end a text and are never shown."""

from __future__ import annotations

from collections.abc import Sequence


class StopStrings:
    """Passes text through until one of the strings comes; holds back what might become one.

    The string that is complete first counts, however the text is cut; of two such the one that begins first.
    """

    def __init__(self, strings: Sequence[str]) -> None:
        self._strings = tuple(strings)
        self._held = ""
        self.is_stopped = False

    def feed(self, text: str) -> str:
        """What may be shown now that `text` has come. Nothing may be fed after a stop string."""
        assert not self.is_stopped
        if not self._strings or not text:
            return text
        text = self._held + text
        found = [
            (start + len(string), start) for string in self._strings if (start := text.find(string)) >= 0
        ]
        if found:
            self.is_stopped = True
            self._held = ""
            return text[: min(found)[1]]
        n_held = max(_n_begun(text, string) for string in self._strings)
        self._held = text[len(text) - n_held :]
        return text[: len(text) - n_held]

    def flush(self) -> str:
        """What was held back, as no more text comes."""
        held, self._held = self._held, ""
        return held


def _n_begun(text: str, string: str) -> int:
    """The longest end of `text`, shorter than `string`, that `string` begins with."""
    for length in range(min(len(string) - 1, len(text)), 0, -1):
        if text.endswith(string[:length]):
            return length
    return 0
