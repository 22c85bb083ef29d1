"""A trace of all nodes on one clock, the root's."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dllama.errors import PeerProtocolError
from dllama.fabric import Fabric, receive_frame, send_frame
from dllama.model import EVENT, MAX_EVENTS, SpanName, Trace, Track
from dllama.node.greeting import raise_refusal
from dllama.node.messages import MAX_CONTROL_BYTES, Kind

_N_PINGS = 16
"""The quickest of so many tells most about the other clock."""

_CLOCK = struct.Struct("<d")


class ClusterTrace:
    """The root's side: begins tracing on all nodes, and gathers what they kept."""

    def __init__(self, fabric: Fabric, own: Trace, timeout_s: float) -> None:
        """Tells all workers to trace from now on, and measures their clocks. Raises PeerError."""
        self._fabric, self._own, self._timeout_s = fabric, own, timeout_s
        self.offsets_s = [0.0, *(self._offset_s(rank) for rank in range(1, fabric.n_ranks))]
        own.begin()

    def gather(self) -> list[NDArray[Any]]:
        """The spans of each rank, [n] EVENT, on the root's clock. Raises PeerError."""
        gathered = [self._own.events]
        for rank in range(1, self._fabric.n_ranks):
            send_frame(self._fabric, [rank], Kind.TRACE, timeout_s=self._timeout_s)
            payload = self._receive(rank, Kind.TRACE, MAX_EVENTS * EVENT.itemsize)
            events = _decode_events(payload, self._fabric.peer_name(rank))
            for name in ("start_s", "stop_s"):
                events[name] -= self.offsets_s[rank]
            gathered.append(events)
        return gathered

    def _offset_s(self, rank: int) -> float:
        """What that rank's clock shows beyond the root's, within half of the quickest round trip: its answer is taken
        to have been half of the time under way."""
        best_s, offset_s = float("inf"), 0.0
        for _ in range(_N_PINGS):
            start_s = self._own.clock()
            send_frame(self._fabric, [rank], Kind.CLOCK, timeout_s=self._timeout_s)
            payload = self._receive(rank, Kind.CLOCK, MAX_CONTROL_BYTES)
            stop_s = self._own.clock()
            if len(payload) != _CLOCK.size:
                raise PeerProtocolError(
                    f"{self._fabric.peer_name(rank)} sent a clock of {len(payload)} bytes"
                )
            if stop_s - start_s < best_s:
                best_s = stop_s - start_s
                offset_s = float(_CLOCK.unpack(payload)[0]) - (start_s + stop_s) / 2
        return offset_s

    def _receive(self, rank: int, wanted: Kind, max_bytes: int) -> bytearray:
        kind, payload = receive_frame(self._fabric, rank, max_bytes, self._timeout_s)
        if kind != wanted:
            raise_refusal(kind, payload, self._fabric.peer_name(rank))
        return payload


def answer_clock(fabric: Fabric, trace: Trace, timeout_s: float) -> None:
    """A worker's answer to CLOCK; the first one begins its trace."""
    if not trace.is_on:
        trace.begin()
    send_frame(fabric, [0], Kind.CLOCK, _CLOCK.pack(trace.clock()), timeout_s=timeout_s)


def answer_trace(fabric: Fabric, trace: Trace, timeout_s: float) -> None:
    """A worker's answer to TRACE."""
    send_frame(fabric, [0], Kind.TRACE, trace.events.view(np.uint8), timeout_s=timeout_s)


def _decode_events(payload: bytes | bytearray, sender: str) -> NDArray[Any]:
    """[n] EVENT, writable. Raises PeerProtocolError for what are no spans."""
    if len(payload) % EVENT.itemsize:
        raise PeerProtocolError(f"{sender} sent a trace of {len(payload)} bytes, no whole spans")
    events = np.frombuffer(payload, EVENT).copy()
    times = np.stack([events["start_s"], events["stop_s"]])
    is_sound = np.isfinite(times).all() and (times[0] <= times[1]).all()
    if not is_sound or (events["name"] >= len(SpanName)).any() or (events["track"] >= len(Track)).any():
        raise PeerProtocolError(f"{sender} sent a malformed trace; are both of the same dllama version?")
    return events


def chrome_trace(gathered: Sequence[NDArray[Any]], names: Sequence[str]) -> dict[str, Any]:
    """Trace events as Chrome and Perfetto read them (the Trace Event Format): a process for each rank, a thread for
    each track, complete events in microseconds since the first of all."""
    starts = [float(events["start_s"].min()) for events in gathered if len(events)]
    begin_s = min(starts, default=0.0)
    trace_events: list[dict[str, Any]] = []
    for rank, (events, name) in enumerate(zip(gathered, names, strict=True)):
        process = {"ph": "M", "pid": rank, "name": "process_name", "args": {"name": f"rank {rank}: {name}"}}
        trace_events.append(process)
        for event in events:
            layer = int(event["layer"])
            trace_events.append(
                {
                    "ph": "X",
                    "pid": rank,
                    "tid": int(event["track"]),
                    "name": SpanName(event["name"]).name.lower(),
                    "ts": 1e6 * (float(event["start_s"]) - begin_s),
                    "dur": 1e6 * float(event["stop_s"] - event["start_s"]),
                    "args": {} if layer < 0 else {"layer": layer},
                }
            )
    return {"traceEvents": trace_events, "displayTimeUnit": "ms"}
