"""Which link is the slow one, and what the model says of a token."""

from __future__ import annotations

import itertools

import pytest

from dllama.bench.fabric import PairSpeed, bulk_s, modelled_token_s, slow_link
from dllama.bench.shapes import SHAPES

NAMES = ("root", "a", "b", "c")


def pairs(speeds: list[float], latencies: list[float]) -> list[PairSpeed]:
    """A pair is as slow as the slower of its links."""
    return [
        PairSpeed(
            first=first,
            second=second,
            latency_s=max(latencies[first], latencies[second]),
            there_mbit=min(speeds[first], speeds[second]),
            back_mbit=min(speeds[first], speeds[second]),
        )
        for first, second in itertools.combinations(range(len(speeds)), 2)
    ]


def test_equal_links_are_not_slow() -> None:
    assert slow_link(NAMES, pairs([940, 930, 900, 941], [40e-6, 50e-6, 60e-6, 45e-6])) is None


@pytest.mark.parametrize("slow", range(4))
def test_a_node_with_a_slow_link_is_named(slow: int) -> None:
    speeds = [940.0] * 4
    speeds[slow] = 94.0
    said = slow_link(NAMES, pairs(speeds, [40e-6] * 4))
    assert said is not None
    assert said.startswith(f"the link of {NAMES[slow]}: 94 Mbit/s")


def test_a_node_with_a_late_link_is_named() -> None:
    said = slow_link(NAMES, pairs([940.0] * 4, [40e-6, 40e-6, 2e-3, 40e-6]))
    assert said == "the link of b: 2000 us, the others 40 us"


def test_a_slow_way_between_two_good_links_is_named() -> None:
    measured = pairs([940.0] * 4, [40e-6] * 4)
    measured[3] = PairSpeed(first=1, second=2, latency_s=40e-6, there_mbit=100, back_mbit=940)
    said = slow_link(NAMES, measured)
    assert said is not None
    assert said.startswith("the way between a and b: 100 Mbit/s")


def test_two_nodes_have_nothing_to_compare() -> None:
    assert slow_link(NAMES[:2], pairs([94, 94], [1.0, 1.0])) is None


def test_the_model_counts_latencies_and_bytes() -> None:
    """Llama 3.1 8B on 4 nodes: 66 latencies and 64 x 3 x 4352 bytes where all send to all."""
    modelled = modelled_token_s(SHAPES["llama-3.1-8b"], 4, pairs([800.0] * 4, [1e-3] * 4))
    assert modelled["direct"] == pytest.approx(66e-3 + 64 * 3 * 4352 / 100e6)
    assert modelled["scattered"] == pytest.approx(130e-3 + 128 * 4352 * 3 / 4 / 100e6)


@pytest.mark.parametrize(
    ("measured_s", "round_trip_s", "left_s"), [(1e-3, 100e-6, 950e-6), (1e-4, 1.0, 50e-6)]
)
def test_bytes_take_time_whatever_a_busy_computer_measured(
    measured_s: float, round_trip_s: float, left_s: float
) -> None:
    assert bulk_s(measured_s, round_trip_s) == pytest.approx(left_s)
