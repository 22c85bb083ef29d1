"""Strings that end a text and are never shown."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence


class StopStrings:
    """Passes text through until one of the strings comes; holds back what might become one.

    The string that is complete first counts, however the text is cut; of two such the one that begins first. Parts of
    the text may be hidden (the names of special tokens): they are never shown, but strings are found with them and
    without them.
    """

    def __init__(self, strings: Sequence[str]) -> None:
        self._prefixes = _Prefixes(strings) if strings else None
        self._whole = self._visible = 0  # states of the text with what is hidden, and of what is shown
        self._held = ""
        self._shown: list[int] = []  # where in `_held` the characters are that may be shown
        self.is_stopped = False

    def feed(self, text: str, hidden: str = "") -> str:
        """What may be shown now that `text` has come, and `hidden` after it. Nothing may be fed after a stop string."""
        assert not self.is_stopped
        if self._prefixes is None:
            return text
        for index, character in enumerate(text + hidden):
            start = self._add(self._prefixes, character, is_shown=index < len(text))
            if start is not None:
                self.is_stopped = True
                return self._take(start)
        n_begun, n_visible = self._prefixes.length[self._whole], self._prefixes.length[self._visible]
        begins = self._shown[-n_visible] if n_visible else len(self._held)
        return self._take(min(begins, len(self._held) - n_begun))

    def flush(self) -> str:
        """What was held back, as no more text comes."""
        return self._take(len(self._held))

    def _add(self, prefixes: _Prefixes, character: str, *, is_shown: bool) -> int | None:
        """Where in the held text begins the string that is complete with this character; None when none is."""
        place = len(self._held)
        self._held += character
        self._whole = prefixes.after(self._whole, character)
        n = prefixes.complete[self._whole]
        starts = [place + 1 - n] if n else []
        if is_shown:
            self._shown.append(place)
            self._visible = prefixes.after(self._visible, character)
            n = prefixes.complete[self._visible]
            starts += [self._shown[-n]] if n else []
        return min(starts, default=None)

    def _take(self, n: int) -> str:
        """What is shown of the first `n` held characters; the rest stays, or nothing when the text has stopped."""
        text = "".join(self._held[place] for place in self._shown if place < n)
        self._held = "" if self.is_stopped else self._held[n:]
        self._shown = [] if self.is_stopped else [place - n for place in self._shown if place >= n]
        return text


class _Prefixes:
    """Which of all beginnings of some strings a text ends with, the longest, in time that does not grow with their
    number (Aho and Corasick 1975). A state is such a beginning; 0 is the empty one.

    length    of the beginning
    complete  length of the longest of the strings that the text ends with; 0 for none
    """

    def __init__(self, strings: Sequence[str]) -> None:
        self.length, self.complete = [0], [0]
        self._longer: list[dict[str, int]] = [{}]
        self._shorter = [0]  # the longest beginning that this one ends with
        for string in strings:
            self._add(string)
        waiting = deque(self._longer[0].values())
        while waiting:
            state = waiting.popleft()
            for character, longer in self._longer[state].items():
                self._shorter[longer] = self.after(self._shorter[state], character)
                waiting.append(longer)
            self.complete[state] = self.complete[state] or self.complete[self._shorter[state]]

    def after(self, state: int, character: str) -> int:
        """The state when one more character has come."""
        while character not in self._longer[state]:
            if not state:
                return 0
            state = self._shorter[state]
        return self._longer[state][character]

    def _add(self, string: str) -> None:
        state = 0
        for length, character in enumerate(string, start=1):
            longer = self._longer[state].get(character)
            if longer is None:
                longer = self._longer[state][character] = len(self.length)
                self.length.append(length)
                self.complete.append(0)
                self._longer.append({})
                self._shorter.append(0)
            state = longer
        self.complete[state] = len(string)
