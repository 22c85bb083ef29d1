"""Tokens a second, from a total that is looked at now and then."""

from __future__ import annotations

import collections

_WINDOW_S = 3.0


class TokenRate:
    """The rate over the last seconds, or since the total was last looked at where that is longer ago."""

    def __init__(self) -> None:
        self._seen: collections.deque[tuple[float, int]] = collections.deque()

    def update(self, now_s: float, total: int) -> float:
        """The total of now; 0 the first time, and when it has begun again from 0."""
        if self._seen and total < self._seen[-1][1]:
            self._seen.clear()
        self._seen.append((now_s, total))
        while len(self._seen) > 2 and self._seen[1][0] <= now_s - _WINDOW_S:
            self._seen.popleft()
        then_s, before = self._seen[0]
        return (total - before) / (now_s - then_s) if now_s > then_s else 0.0
