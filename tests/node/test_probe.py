"""Measurements between ranks, and orders that cannot be."""

from __future__ import annotations

import dataclasses
from concurrent.futures import ThreadPoolExecutor

import pytest

from dllama.errors import PeerProtocolError
from dllama.fabric import local_fabrics
from dllama.node.probe import Measure, Pattern, ProbeOrders, check_measure, check_orders, run_measure
from dllama.node.root_link import as_seen_from_here

PAIR = Measure(Pattern.PAIR, 1000, 3, 0, 2, 10)


def run(measure: Measure, n_ranks: int = 3):
    fabrics = local_fabrics(n_ranks)
    with ThreadPoolExecutor(n_ranks) as pool:
        results = list(pool.map(lambda fabric: run_measure(fabric, measure), fabrics))
    return fabrics, results


def test_a_pair_talks_and_the_first_holds_the_clock() -> None:
    fabrics, (measured, *others) = run(PAIR)
    assert others == [None, None]
    assert 0 < measured.least_s <= measured.median_s <= measured.most_s
    rounds = PAIR.n_rounds + 1
    assert fabrics[0].sent_bytes == [0, 0, 1000 * rounds]
    assert fabrics[0].received_bytes == [0, 0, 10 * rounds]
    assert fabrics[1].sent_bytes == [0, 0, 0]


@pytest.mark.parametrize(
    ("pattern", "root_sends"),
    [
        (Pattern.EXCHANGE_ALL, 1000),
        (Pattern.SCATTERED, 333 + 333),
        (Pattern.BROADCAST, 1000),
        (Pattern.GATHER, 1),
    ],
)
def test_a_collective_moves_its_bytes(pattern: Pattern, root_sends: int) -> None:
    fabrics, (measured, *others) = run(Measure(pattern, 1000, 4))
    assert measured.median_s > 0
    assert others == [None, None]
    assert fabrics[0].sent_bytes[1] == pytest.approx(5 * root_sends, abs=5)


@pytest.mark.parametrize(
    "changes",
    [
        {"pattern": "dance"},
        {"n_bytes": -1},
        {"n_bytes": 1 << 40},
        {"answer_bytes": 1 << 40},
        {"n_rounds": 0},
        {"n_rounds": 1 << 40},
        {"first": 3},
        {"second": -1},
        {"second": 0},
        {"pattern": "gather"},
    ],
)
def test_impossible_measurements_are_refused(changes: dict[str, object]) -> None:
    assert check_measure(PAIR, 3, "root") is PAIR
    with pytest.raises(PeerProtocolError, match="root asked for an impossible measurement"):
        check_measure(dataclasses.replace(PAIR, **changes), 3, "root")


@pytest.mark.parametrize(
    "orders",
    [
        {"rank": 0, "addresses": ["", "a:1"]},
        {"rank": 2, "addresses": ["", "a:1"]},
        {"rank": 1, "addresses": ["", "a"]},
        {"rank": 1, "addresses": "ab"},
        {"rank": 1, "addresses": ["", 3]},
        {"rank": 1, "addresses": 7},
    ],
)
def test_impossible_orders_are_refused(orders: dict[str, object]) -> None:
    good = check_orders(ProbeOrders("abc", 1, ["", "a:1"]), "root")
    with pytest.raises(PeerProtocolError, match="root sent impossible orders"):
        check_orders(dataclasses.replace(good, **orders), "root")


@pytest.mark.parametrize(
    ("address", "root", "seen"),
    [
        ("10.0.0.2:9990", "10.0.0.1:5000", "10.0.0.2:9990"),
        ("127.0.0.1:9991", "10.0.0.1:5000", "10.0.0.1:9991"),
        ("localhost:9991", "10.0.0.1:5000", "10.0.0.1:9991"),
        ("[::1]:9991", "[fd00::1]:5000", "[fd00::1]:9991"),
        ("127.0.0.1:9991", "127.0.0.1:5000", "127.0.0.1:9991"),
        ("pi4:9990", "10.0.0.1:5000", "pi4:9990"),
    ],
)
def test_where_a_worker_is_that_the_root_reaches(address: str, root: str, seen: str) -> None:
    """A worker on the root's own computer is at the root's address for the others; all else is as the root has it."""
    assert str(as_seen_from_here(address, root)) == seen
