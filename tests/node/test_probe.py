"""Measurements between ranks, and orders that cannot be."""

from __future__ import annotations

import dataclasses
import ipaddress
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NoReturn

import pytest

from dllama.errors import PeerProtocolError, PeerUnreachableError
from dllama.fabric import local_fabrics
from dllama.node.links import link_faults
from dllama.node.probe import Measure, Pattern, ProbeOrders, check_measure, check_orders, run_measure
from dllama.node.reach import as_seen_from_here, may_be_worker, place_of_worker

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
        {"pattern": "exchange all", "second": 0, "n_bytes": 64 << 20, "n_rounds": 1, "ranks": 100},
        {"n_bytes": 1 << 20, "n_rounds": 10_000},
        {"first": 3},
        {"second": -1},
        {"second": 0},
        {"pattern": "gather"},
    ],
)
def test_impossible_measurements_are_refused(changes: dict[str, object]) -> None:
    assert check_measure(PAIR, 3, "root") is PAIR
    changes = dict(changes)
    n_ranks = changes.pop("ranks", 3)
    with pytest.raises(PeerProtocolError, match="root asked for an impossible measurement"):
        check_measure(dataclasses.replace(PAIR, **changes), n_ranks, "root")


@pytest.mark.parametrize(
    "orders",
    [
        {"rank": 0, "addresses": ["", "a:1"]},
        {"rank": 2, "addresses": ["", "a:1"]},
        {"rank": 1, "addresses": ["", "a"]},
        {"rank": 1, "addresses": "ab"},
        {"rank": 1, "addresses": ["", 3]},
        {"rank": 1, "addresses": 7},
        {"rank": 1, "addresses": ["", *(f"10.0.{n // 250}.{n % 250}:9998" for n in range(1000))]},
        {"session": "a b"},
        {"session": "a" * 100},
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
        ("[::1]:9991", "[fd00::1]:5000", "[fd00::1]:9991"),
        ("127.0.0.1:9991", "127.0.0.1:5000", "127.0.0.1:9991"),
        ("pi4:9990", "10.0.0.1:5000", "pi4:9990"),
        ("[fe80::2%eth7]:9990", "[fe80::1%eth0]:5000", "[fe80::2%eth0]:9990"),
    ],
)
def test_where_a_worker_is_that_the_root_reaches(address: str, root: str, seen: str) -> None:
    """A worker on the root's own computer is at the root's address for the others; all else is as the root has it."""
    assert str(as_seen_from_here(address, root)) == seen


LAN, LOOPBACK, LINK, PUBLIC = "192.168.1.5", "127.0.0.1", "169.254.3.4", "8.8.8.8"
LAN6, PUBLIC6, NEIGHBOUR6 = "fd00::5", "2a00:1450:4001::1", "2a00:1450:4001::2"


@pytest.mark.parametrize(
    ("ip", "root", "own", "may_be"),
    [
        (LOOPBACK, LOOPBACK, LOOPBACK, True),
        (LAN, LOOPBACK, LAN, True),
        (LAN, LAN, LAN, True),
        ("10.1.2.3", LAN, LAN, True),
        ("100.64.1.2", LAN, LAN, True),
        (LAN6, LAN, None, True),
        (LAN, PUBLIC, None, True),
        (PUBLIC, PUBLIC, None, True),
        (NEIGHBOUR6, LAN, PUBLIC6, True),
        (LINK, "169.254.9.9", None, True),
        (LOOPBACK, LAN, LOOPBACK, False),
        ("::1", LAN, None, False),
        (PUBLIC, LAN, LAN, False),
        (PUBLIC, LOOPBACK, LAN, False),
        ("2001:4860:4860::8888", LAN, PUBLIC6, False),
        ("169.254.169.254", LAN, LAN, False),
        ("fe80::1", LAN, None, False),
        ("0.0.0.0", LOOPBACK, None, False),
        ("::", LOOPBACK, None, False),
        ("224.0.0.1", LAN, LAN, False),
        ("ff02::1", LAN, None, False),
        ("255.255.255.255", LAN, LAN, False),
    ],
)
def test_where_a_worker_may_be(ip: str, root: str, own: str | None, may_be: bool) -> None:
    """A worker calls only addresses that could be a worker's of the root that names them."""
    address = ipaddress.ip_address
    assert may_be_worker(address(ip), address(root), address(own) if own else None) == may_be


def test_addresses_are_looked_at_as_what_they_lead_to() -> None:
    root = "192.168.1.2:5000"
    for address in ("169.254.169.254:80", "[::ffff:169.254.169.254]:80", "8.8.8.8:53", "0.0.0.0:9998"):
        with pytest.raises(PeerUnreachableError, match=r"no worker of 192\.168\.1\.2:5000 can be at"):
            place_of_worker(address, root)
    assert str(place_of_worker("127.0.0.1:9998", root)) == "192.168.1.2:9998"
    assert str(place_of_worker("[::1]:9998", "[::1]:5000")) == "[::1]:9998"


def test_a_worker_looks_no_name_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever calls himself a root could have it ask for any name, and wait for each."""

    def looked_up(*name: object) -> NoReturn:
        raise AssertionError(f"{name} was looked up")

    monkeypatch.setattr(socket, "getaddrinfo", looked_up)
    monkeypatch.setattr(socket, "gethostbyname", looked_up)
    for name in ("localhost", "pi.local", "no.such.host.invalid"):
        with pytest.raises(PeerUnreachableError, match="by no number"):
            place_of_worker(f"{name}:9998", "192.168.1.2:5000")
        assert link_faults(Path("/sys"), Path("/proc"), [f"{name}:9998"]) == []
