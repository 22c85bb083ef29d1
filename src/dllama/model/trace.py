"""What this rank did when, for `--trace`: spans of time with a name, in memory of a fixed size."""

from __future__ import annotations

import enum
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray


class SpanName(enum.IntEnum):
    STEP = 0
    ATTENTION = 1  # of one layer, the exchange behind it included, as are the next two
    FEED_FORWARD = 2
    HEAD = 3
    EXCHANGE = 4  # of partial sums
    SAMPLING = 5  # between two steps of the root: drawing tokens, choosing the next rows
    INPUTS = 6  # the embedded inputs of some rows, on their way from the root


class Track(enum.IntEnum):
    """Who does it: exchanges under way while others compute have a thread of their own."""

    COMPUTE = 0
    COURIER = 1


EVENT = np.dtype([("name", "u1"), ("track", "u1"), ("layer", "<i2"), ("start_s", "<f8"), ("stop_s", "<f8")])
"""`layer` is -1 where there is none; times are those of this rank's clock."""

MAX_EVENTS = 1 << 18
"""5 MB: 2000 steps of a model of 32 layers. Later ones are not kept."""

Clock = Callable[[], float]


class Trace:
    """Does nothing until `begin`. Spans may come from several threads."""

    def __init__(self, clock: Clock = time.perf_counter) -> None:
        self.clock = clock
        self._events: NDArray[Any] | None = None
        self._n_events = 0
        self._lock = threading.Lock()

    def begin(self) -> None:
        """Keeps spans from now on, up to MAX_EVENTS."""
        self._events = np.zeros(MAX_EVENTS, EVENT)
        self._n_events = 0

    @property
    def is_on(self) -> bool:
        return self._events is not None

    def add(self, name: SpanName, start_s: float, layer: int = -1, track: Track = Track.COMPUTE) -> None:
        """A span from `start_s` until now."""
        if self._events is None:
            return
        stop_s = self.clock()
        with self._lock:
            if self._n_events < MAX_EVENTS:
                self._events[self._n_events] = (name, track, layer, start_s, stop_s)
                self._n_events += 1

    @property
    def events(self) -> NDArray[Any]:
        """Those kept so far: [n] EVENT."""
        return np.empty(0, EVENT) if self._events is None else self._events[: self._n_events]
