"""Strings that end a text and are never shown."""

from __future__ import annotations

from collections.abc import Sequence


class StopStrings:
    """Passes text through until one of the strings comes; holds back what might become one.

    The string that is complete first counts, however the text is cut; of two such the one that begins first. Parts of
    the text may be hidden (the names of special tokens): they are never shown, but strings are found with them and
    without them.
    """

    def __init__(self, strings: Sequence[str]) -> None:
        self._strings = tuple(strings)
        self._held = ""
        self._shown: list[int] = []
        self.is_stopped = False

    def feed(self, text: str, hidden: str = "") -> str:
        """What may be shown now that `text` has come, and `hidden` after it. Nothing may be fed after a stop string."""
        assert not self.is_stopped
        if not self._strings or not (text or hidden):
            return text
        start = len(self._held)
        self._held += text + hidden
        self._shown += range(start, start + len(text))
        found = [place for string in self._strings for place in self._places(string)]
        if found:
            self.is_stopped = True
            return self._take(min(found)[1])
        return self._take(min(self._first_begun(string) for string in self._strings))

    def flush(self) -> str:
        """What was held back, as no more text comes."""
        return self._take(len(self._held))

    def _places(self, string: str) -> list[tuple[int, int]]:
        """(end, start) in the held text of `string` with what is hidden, and of it in what is shown."""
        places = []
        start = self._held.find(string)
        if start >= 0:
            places.append((start + len(string), start))
        start = self._visible().find(string)
        if start >= 0:
            places.append((self._shown[start + len(string) - 1] + 1, self._shown[start]))
        return places

    def _first_begun(self, string: str) -> int:
        """Where in the held text begins what may still become `string`."""
        n_shown = _n_begun(self._visible(), string)
        in_shown = self._shown[-n_shown] if n_shown else len(self._held)
        return min(in_shown, len(self._held) - _n_begun(self._held, string))

    def _take(self, n: int) -> str:
        """What is shown of the first `n` held characters; the rest stays, or nothing when the text has stopped."""
        text = "".join(self._held[place] for place in self._shown if place < n)
        self._held = "" if self.is_stopped else self._held[n:]
        self._shown = [] if self.is_stopped else [place - n for place in self._shown if place >= n]
        return text

    def _visible(self) -> str:
        return "".join([self._held[place] for place in self._shown])


def _n_begun(text: str, string: str) -> int:
    """The longest end of `text`, shorter than `string`, that `string` begins with."""
    for length in range(min(len(string) - 1, len(text)), 0, -1):
        if text.endswith(string[:length]):
            return length
    return 0
