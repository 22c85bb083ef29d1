"""Addresses of IPv4 and IPv6 as people write and read them."""

from __future__ import annotations

import ipaddress
import socket
from typing import Any

import psutil


def format_address(host: str, port: int) -> str:
    """`10.0.0.1:9998`, `[fd00::1]:9998`, `[fe80::1%eth0]:9998`."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def peer_address(address: tuple[Any, ...]) -> str:
    """What a socket says of the other end, as `format_address` writes it.

    A caller by IPv4 of a socket that listens on both is called by its IPv4 address, and a link-local one with the
    interface that leads to it.
    """
    host, port, *more = address
    return format_address(_plain_host(host, more[1] if len(more) == 2 else 0), port)


def own_hosts() -> list[str]:
    """The addresses by which other computers reach this one, IPv4 first; link-local ones only where there are no
    others, since each computer has its own name for the interface that leads to them."""
    stats = psutil.net_if_stats()
    hosts = [
        one.address
        for name, addresses in psutil.net_if_addrs().items()
        if name in stats and stats[name].isup
        for one in addresses
        if one.family in (socket.AF_INET, socket.AF_INET6)
    ]
    ips = {host: ipaddress.ip_address(host) for host in hosts}
    there = [host for host in hosts if not ips[host].is_loopback]
    farther = [host for host in there if not ips[host].is_link_local]
    return sorted(farther or there, key=lambda host: ips[host].version)


def _plain_host(host: str, zone: int) -> str:
    """`zone` is the number of the interface of a link-local address."""
    try:
        ip = ipaddress.ip_address(host)
    except ValueError:
        return host
    if not isinstance(ip, ipaddress.IPv6Address):
        return host
    if ip.ipv4_mapped is not None:
        return str(ip.ipv4_mapped)
    if ip.is_link_local and zone and "%" not in host:
        return f"{host}%{_interface(zone)}"
    return host


def _interface(zone: int) -> str:
    try:
        return socket.if_indextoname(zone)
    except OSError:  # it has gone meanwhile
        return str(zone)
