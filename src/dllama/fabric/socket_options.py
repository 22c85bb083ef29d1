"""What the sockets between nodes ask of the system."""

from __future__ import annotations

import contextlib
import socket

_UNPACED = ("cubic", "reno")
"""Congestion controls that send as soon as they may. The first is Linux's own default; without privileges it may not be
allowed, the second always is (tcp(7), TCP_CONGESTION)."""


_PROBE_S = 60
"""An idle connection is probed that often: routers and firewalls on the way forget one that is silent for minutes, and
the beats that tell who is there have a connection of their own."""

_PROBED_AFTER = ("TCP_KEEPIDLE", "TCP_KEEPALIVE")
"""Linux's and macOS's names (tcp(7), tcp(4))."""


def set_options(connection: socket.socket) -> None:
    """Small messages leave at once, large ones without pauses, and a connection is remembered however long it is idle.

    For a socket that listens (its connections inherit), is to be connected, or is: what TCP has begun to pace, it
    paces to its end.
    """
    if connection.family not in (socket.AF_INET, socket.AF_INET6):
        return
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    _send_unpaced(connection)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name in _PROBED_AFTER:
        if hasattr(socket, name):
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), _PROBE_S)


def _send_unpaced(connection: socket.socket) -> None:
    """Takes another congestion control where the system's default is BBR, which spreads packets over time: made for
    routers with little memory, it takes a timer for each packet on cores that compute meanwhile (docs/log.md)."""
    if not hasattr(socket, "TCP_CONGESTION"):
        return
    default = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16)
    if not default.startswith(b"bbr"):
        return
    for name in _UNPACED:
        with contextlib.suppress(OSError):
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, name.encode())
            return
