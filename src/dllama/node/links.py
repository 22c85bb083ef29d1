"""What this computer knows of its own links that would slow a cluster down: from /sys and /proc of Linux.

/sys/class/net: Documentation/ABI/testing/sysfs-class-net of the kernel; /proc/net/route: proc_net(5).
"""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import struct
from collections.abc import Iterable
from pathlib import Path

_SLOW_MBIT = 100
_RTF_GATEWAY = 0x2


def link_faults(sys_root: Path, proc_root: Path, addresses: Iterable[str]) -> list[str]:
    """A line for each fault of the way to `addresses` (host:port, numbers). Empty where nothing is known."""
    faults: dict[str, None] = {}
    for address in addresses:
        host = _ipv4(address)
        if host is None or host.startswith("127."):
            continue
        interface, gateway = route_to(proc_root, host)
        if interface is None or interface == "lo":
            continue
        if gateway is not None:
            faults[
                f"the way to {host} leads through the router {gateway}: put all nodes into the same network"
            ] = None
        faults |= dict.fromkeys(interface_faults(sys_root, interface))
    return list(faults)


def route_to(proc_root: Path, host: str) -> tuple[str | None, str | None]:
    """The interface that packets to the IPv4 address `host` leave by, and the router that they pass (None: none)."""
    try:
        lines = (proc_root / "net/route").read_text().splitlines()[1:]
    except OSError:
        return None, None
    target = struct.unpack("<I", socket.inet_aton(host))[0]
    best: tuple[int, int, str, str | None] | None = None
    for line in lines:
        name, destination, gateway, flags, _, _, metric, mask, *_ = line.split()
        if target & int(mask, 16) != int(destination, 16):
            continue
        router = (
            socket.inet_ntoa(struct.pack("<I", int(gateway, 16))) if int(flags, 16) & _RTF_GATEWAY else None
        )
        candidate = (int(mask, 16).bit_count(), -int(metric), name, router)
        if best is None or candidate[:2] > best[:2]:
            best = candidate
    return (best[2], best[3]) if best else (None, None)


def interface_faults(sys_root: Path, name: str) -> list[str]:
    """Wi-Fi, a slow or half-duplex link, power saving."""
    folder = sys_root / "class/net" / name
    faults = []
    if (folder / "wireless").exists() or (folder / "phy80211").exists():
        faults.append(
            f"{name} is Wi-Fi: its latency is many times that of a cable, and all nodes share the air"
        )
    speed = _read(folder / "speed")
    if speed.isdigit() and 0 < int(speed) <= _SLOW_MBIT:
        faults.append(f"{name} runs at {speed} Mbit/s: look for a better cable, port or switch")
    if _read(folder / "duplex") == "half":
        faults.append(f"{name} runs in half duplex: look at cable and switch")
    if _read(folder / "device/power/control") == "auto" and _read(folder / "device/power/runtime_status") in (
        "active",
        "suspended",
    ):
        faults.append(
            f"{name} may save power between packets: echo on > /sys/class/net/{name}/device/power/control"
        )
    return faults


def _read(path: Path) -> str:
    with contextlib.suppress(OSError):  # EINVAL where the link is down or virtual
        return path.read_text().strip()
    return ""


def _ipv4(address: str) -> str | None:
    """The host where it is such a number: nothing is looked up, a root chose the addresses."""
    try:
        return str(ipaddress.IPv4Address(address.rpartition(":")[0]))
    except ValueError:
        return None
