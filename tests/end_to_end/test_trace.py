"""`dllama inference --trace`: all nodes on one clock."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from support.processes import WorkerPool, inference, run_well

N_LAYERS = 4
SLACK_US = 1000.0
"""Clocks are compared over loopback: within half of a round trip, far below this."""


def spans_of(trace: dict[str, Any], rank: int, *names: str) -> list[dict[str, Any]]:
    """Those of a rank by their start."""
    events = [e for e in trace["traceEvents"] if e["ph"] == "X" and e["pid"] == rank and e["name"] in names]
    return sorted(events, key=lambda event: float(event["ts"]))


def is_within(inner: dict[str, Any], outer: dict[str, Any]) -> bool:
    rounding = 1e-3  # of times in microseconds
    return bool(
        outer["ts"] <= inner["ts"] + rounding
        and inner["ts"] + inner["dur"] <= outer["ts"] + outer["dur"] + rounding
    )


def test_a_trace_of_three_nodes(tmp_path: Path, pool: WorkerPool) -> None:
    path = tmp_path / "trace.json"
    addresses = pool.addresses(2)
    run_well(*inference("--ignore-eos", "--trace", path, workers=addresses, steps=12))
    trace = json.loads(path.read_text())
    names = {e["pid"]: e["args"]["name"] for e in trace["traceEvents"] if e["ph"] == "M"}
    assert names == {0: "rank 0: root"} | {r: f"rank {r}: {a}" for r, a in enumerate(addresses, start=1)}
    assert min(e["ts"] for e in trace["traceEvents"] if e["ph"] == "X") == 0
    steps = spans_of(trace, 0, "step")
    assert len(steps) >= 2
    assert len(spans_of(trace, 0, "sampling")) == len(steps) - 1
    for rank in range(3):
        assert len(spans_of(trace, rank, "step")) == len(steps)
        layers = spans_of(trace, rank, "attention", "feed_forward")
        heads, exchanges = spans_of(trace, rank, "head"), spans_of(trace, rank, "exchange")
        assert len(heads) == len(steps)
        assert len(layers) == len(exchanges) == 2 * N_LAYERS * len(steps)
        assert [e["args"]["layer"] for e in layers[: 2 * N_LAYERS]] == [n // 2 for n in range(2 * N_LAYERS)]
        for inner, outer in zip(exchanges, layers, strict=True):
            assert is_within(inner, outer)
        for span in layers + heads:
            assert sum(is_within(span, step) for step in spans_of(trace, rank, "step")) == 1
    for rank in (1, 2):  # nobody has the sum before all have handed theirs over
        for theirs, ours in zip(
            spans_of(trace, rank, "exchange"), spans_of(trace, 0, "exchange"), strict=True
        ):
            assert theirs["ts"] <= ours["ts"] + ours["dur"] + SLACK_US
            assert ours["ts"] <= theirs["ts"] + theirs["dur"] + SLACK_US
