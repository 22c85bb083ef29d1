"""Where a worker goes because a root says so: only to where another worker of the same session can be.

Whoever reaches a worker's port may be a root. Without this a root could have a worker knock at any door that is open to
it alone: services of its own computer, a cloud's metadata, hosts of other networks.
"""

from __future__ import annotations

import ipaddress
import socket
from typing import TypeAlias

from dllama.errors import PeerUnreachableError
from dllama.node.greeting import Address

_Ip: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address

_SHARED = ipaddress.ip_network("100.64.0.0/10")
"""RFC 6598: providers, and overlay networks such as Tailscale's."""

_SUBNET_BITS = 64
"""Leading bits of an IPv6 address that name its network (RFC 4291)."""


def as_seen_from_here(address: str, root: str) -> Address:
    """Where a worker is that the root reaches at `address`; `root` is the root's own address as seen from here."""
    worker, root_host = Address.parse(address), Address.parse(root).host
    if _is_loopback(worker.host) and not _is_loopback(root_host):
        return Address(root_host, worker.port)
    host, _, zone = worker.host.partition("%")
    own_zone = root_host.partition("%")[2]
    if zone and own_zone:  # the root's name of its interface says nothing here
        return Address(f"{host}%{own_zone}", worker.port)
    return worker


def place_of_worker(address: str, root: str) -> Address:
    """As `as_seen_from_here`. Raises PeerUnreachableError where no worker of that root's session can be, and for a
    name: to look one up may take long, and tells others who asks for it."""
    there = as_seen_from_here(address, root)
    ip, root_ip = _ip(there.host), _ip(Address.parse(root).host)
    assert root_ip is not None, "a caller's address is a number"
    if ip is None:
        raise PeerUnreachableError(
            f"root {root} names worker {address} by no number; install the same release of dllama on all nodes"
        )
    if may_be_worker(ip, root_ip, _own_address_towards(ip)):
        return Address(str(ip), there.port)
    raise PeerUnreachableError(
        f"no worker of {root} can be at {address}: it is in another kind of network than that root; name workers by "
        "addresses of the network that all nodes share"
    )


def may_be_worker(ip: _Ip, root: _Ip, own: _Ip | None) -> bool:
    """Whether a root at `root`, as seen from here, may have a worker at `ip`; `own` is this node's address on the way
    there.

    This computer's loopback is for roots that are on it too, link-local addresses for roots that have one themselves,
    public addresses for roots that have one or are on the same subnet; private addresses are for all.
    """
    if ip.is_unspecified or ip.is_multicast or ip == ipaddress.IPv4Address("255.255.255.255"):
        return False
    if ip.is_loopback:
        return root.is_loopback
    if ip.is_link_local:
        return root.is_link_local
    if ip.is_private or (ip.version == 4 and ip in _SHARED):
        return True
    return root.is_global or _share_subnet(ip, own)


def _share_subnet(one: _Ip, other: _Ip | None) -> bool:
    if other is None or one.version != 6 or other.version != 6:
        return False
    shift = 128 - _SUBNET_BITS
    return int(one) >> shift == int(other) >> shift


def _own_address_towards(ip: _Ip) -> _Ip | None:
    """What the system would call from. Nothing is sent: a connected UDP socket only has a route."""
    family = socket.AF_INET if ip.version == 4 else socket.AF_INET6
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((str(ip), 9))
        except OSError:
            return None
        return _ip(probe.getsockname()[0])


def _ip(host: str) -> _Ip | None:
    """The IPv4 address itself where IPv6 wraps one."""
    try:
        ip = ipaddress.ip_address(host)
    except ValueError:
        return None
    mapped = ip.ipv4_mapped if isinstance(ip, ipaddress.IPv6Address) else None
    return mapped or ip


def _is_loopback(host: str) -> bool:
    ip = _ip(host)
    return ip is not None and ip.is_loopback
