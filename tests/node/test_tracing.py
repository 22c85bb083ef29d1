"""A trace of several ranks: clocks that differ, memory that ends, peers that send something else."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from dllama.errors import PeerProtocolError
from dllama.fabric import Fabric, local_fabrics, receive_frame, send_frame
from dllama.model import EVENT, MAX_EVENTS, SpanName, Trace
from dllama.node.messages import MAX_CONTROL_BYTES, Kind
from dllama.node.tracing import ClusterTrace, answer_clock, answer_trace, chrome_trace

TIMEOUT_S = 20.0


def serve(fabric: Fabric, trace: Trace) -> None:
    """A worker that answers until it has sent its trace."""
    while True:
        kind, _ = receive_frame(fabric, 0, MAX_CONTROL_BYTES, TIMEOUT_S)
        if kind == Kind.TRACE:
            answer_trace(fabric, trace, TIMEOUT_S)
            return
        answer_clock(fabric, trace, TIMEOUT_S)


def test_other_clocks_are_brought_to_the_roots() -> None:
    root, worker = local_fabrics(2)
    ahead_s = 5000.0
    theirs = Trace(lambda: time.perf_counter() + ahead_s)
    thread = threading.Thread(target=serve, args=(worker, theirs))
    thread.start()
    begin_s = time.perf_counter()
    tracing = ClusterTrace(root, Trace(), TIMEOUT_S)
    assert tracing.offsets_s[1] == pytest.approx(ahead_s, abs=time.perf_counter() - begin_s)
    theirs.add(SpanName.HEAD, theirs.clock())
    own, gathered = tracing.gather()
    thread.join(TIMEOUT_S)
    assert len(own) == 0
    assert gathered["name"].tolist() == [SpanName.HEAD]
    assert begin_s - 1 < gathered["start_s"][0] <= gathered["stop_s"][0] < time.perf_counter() + 1


def test_nothing_is_kept_before_the_begin_or_beyond_the_end() -> None:
    trace = Trace(lambda: 1.0)
    trace.add(SpanName.STEP, 0.0)
    assert len(trace.events) == 0
    trace.begin()
    for _ in range(MAX_EVENTS + 3):
        trace.add(SpanName.STEP, 0.0, 7)
    assert len(trace.events) == MAX_EVENTS
    assert trace.events[-1].tolist() == (SpanName.STEP, 0, 7, 0.0, 1.0)


@pytest.mark.parametrize("change", [("name", 77), ("track", 9), ("start_s", np.nan), ("stop_s", -1.0)])
def test_malformed_traces(change: tuple[str, float]) -> None:
    root, worker = local_fabrics(2)
    events = np.zeros(2, EVENT)
    events[change[0]][1] = change[1]

    def answer() -> None:
        for _ in range(16):
            receive_frame(worker, 0, MAX_CONTROL_BYTES, TIMEOUT_S)
            send_frame(worker, [0], Kind.CLOCK, bytes(8), timeout_s=TIMEOUT_S)
        receive_frame(worker, 0, MAX_CONTROL_BYTES, TIMEOUT_S)
        send_frame(worker, [0], Kind.TRACE, events.view(np.uint8), timeout_s=TIMEOUT_S)

    thread = threading.Thread(target=answer)
    thread.start()
    with pytest.raises(PeerProtocolError, match="malformed trace"):
        ClusterTrace(root, Trace(), TIMEOUT_S).gather()
    thread.join(TIMEOUT_S)


def test_no_spans_are_a_trace_too() -> None:
    assert chrome_trace([np.empty(0, EVENT)], ["root"])["traceEvents"][0]["args"] == {"name": "rank 0: root"}
