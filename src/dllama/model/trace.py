"""What this rank did when, for a trace: spans of time with a name, in memory of a fixed size."""

from __future__ import annotations

import enum
import struct
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

_SPAN = struct.Struct("<BBhdd")
assert _SPAN.size == EVENT.itemsize
_MAX_BYTES = MAX_EVENTS * _SPAN.size

Clock = Callable[[], float]


class Trace:
    """Does nothing until `begin`. Spans may come from several threads."""

    def __init__(self, clock: Clock = time.perf_counter) -> None:
        self.clock = clock
        self._spans: bytearray | None = None

    def begin(self) -> None:
        """Keeps spans from now on, up to MAX_EVENTS."""
        self._spans = bytearray()

    @property
    def is_on(self) -> bool:
        return self._spans is not None

    def add(self, name: SpanName, start_s: float, layer: int = -1, track: Track = Track.COMPUTE) -> None:
        """A span from `start_s` until now."""
        spans = self._spans
        if spans is not None and len(spans) < _MAX_BYTES:
            spans.extend(_SPAN.pack(name, track, layer, start_s, self.clock()))

    @property
    def events(self) -> NDArray[Any]:
        """Those kept so far: [n] EVENT, a copy."""
        spans = self._spans or bytearray()
        return np.frombuffer(spans[:_MAX_BYTES], EVENT)  # two threads at once may have added one too many
