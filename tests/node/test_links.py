"""Faults of links, read from a made-up /sys and /proc."""

from __future__ import annotations

from pathlib import Path

import pytest

from dllama.node.links import interface_faults, link_faults, route_to

HEADER = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n"
DEFAULT = "eth0\t00000000\t0100A8C0\t0003\t0\t0\t100\t00000000\t0\t0\t0\n"  # by the router 192.168.0.1
LAN = "eth0\t0000A8C0\t00000000\t0001\t0\t0\t100\t00FFFFFF\t0\t0\t0\n"  # 192.168.0.0/24 is on the link
WIRELESS_LAN = "wlan0\t0000A8C0\t00000000\t0001\t0\t0\t600\t00FFFFFF\t0\t0\t0\n"


@pytest.fixture
def sys_root(tmp_path: Path) -> Path:
    return tmp_path / "sys"


def interface(sys_root: Path, name: str, **files: str) -> None:
    for path, text in files.items():
        file = sys_root / "class/net" / name / path.replace("__", "/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{text}\n")


def proc(tmp_path: Path, *routes: str) -> Path:
    path = tmp_path / "proc/net/route"
    path.parent.mkdir(parents=True)
    path.write_text(HEADER + "".join(routes))
    return tmp_path / "proc"


def test_a_good_link_has_no_faults(sys_root: Path) -> None:
    interface(sys_root, "eth0", speed="1000", duplex="full", device__power__control="on")
    assert interface_faults(sys_root, "eth0") == []


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({"speed": "100", "duplex": "full"}, "eth0 runs at 100 Mbit/s"),
        ({"speed": "10"}, "eth0 runs at 10 Mbit/s"),
        ({"speed": "1000", "duplex": "half"}, "half duplex"),
        ({"wireless__status": "0"}, "eth0 is Wi-Fi"),
        ({"device__power__control": "auto", "device__power__runtime_status": "active"}, "may save power"),
    ],
)
def test_a_fault_is_named(sys_root: Path, files: dict[str, str], says: str) -> None:
    interface(sys_root, "eth0", **files)
    (fault,) = interface_faults(sys_root, "eth0")
    assert says in fault


@pytest.mark.parametrize("speed", ["-1", "", "unknown"])
def test_an_unknown_speed_is_no_fault(sys_root: Path, speed: str) -> None:
    interface(sys_root, "eth0", speed=speed)
    assert interface_faults(sys_root, "eth0") == []


def test_power_that_the_driver_does_not_manage_is_no_fault(sys_root: Path) -> None:
    interface(sys_root, "eth0", device__power__control="auto", device__power__runtime_status="unsupported")
    assert interface_faults(sys_root, "eth0") == []


def test_the_longest_route_wins_then_the_lowest_metric(tmp_path: Path) -> None:
    root = proc(tmp_path, WIRELESS_LAN, DEFAULT, LAN)
    assert route_to(root, "192.168.0.7") == ("eth0", None)
    assert route_to(root, "10.1.2.3") == ("eth0", "192.168.0.1")


def test_a_way_over_a_router_is_a_fault(tmp_path: Path, sys_root: Path) -> None:
    interface(sys_root, "eth0", speed="1000")
    root = proc(tmp_path, DEFAULT, LAN)
    faults = link_faults(sys_root, root, ["", "192.168.0.7:9990", "10.1.2.3:9990", "127.0.0.1:9990"])
    assert faults == [
        "the way to 10.1.2.3 leads through the router 192.168.0.1: put all nodes into the same network"
    ]


def test_each_fault_is_said_once(tmp_path: Path, sys_root: Path) -> None:
    interface(sys_root, "eth0", speed="100")
    assert len(link_faults(sys_root, proc(tmp_path, LAN), ["192.168.0.7:1", "192.168.0.8:1"])) == 1


def test_where_nothing_is_known_nothing_is_said(tmp_path: Path) -> None:
    nowhere = tmp_path / "nowhere"
    assert (
        link_faults(nowhere, nowhere, ["192.168.0.7:9990", "process 1 on pi", "no.such.host.invalid:1"]) == []
    )
