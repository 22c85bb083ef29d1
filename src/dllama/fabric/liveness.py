"""When a peer's system counts as gone: it does not answer for about 25 s, however long a wait may be.

A process that computes, swaps or is stopped does not read, but its system still answers, and the wait goes
on. TCP_USER_TIMEOUT cannot tell the two apart: on Linux it also ends a connection whose peer answers every
window probe and merely does not read. So keepalive covers connections on which nothing is in flight, and
`system_answers` those on which something is.
"""

from __future__ import annotations

import socket
import struct
import sys

KEEPALIVE_IDLE_S = 10
KEEPALIVE_INTERVAL_S = 5
KEEPALIVE_PROBES = 3
SILENCE_S = KEEPALIVE_IDLE_S + KEEPALIVE_INTERVAL_S * KEEPALIVE_PROBES

# <netinet/tcp.h> of macOS; Python names neither of all its versions.
_DARWIN_TCP_KEEPALIVE = 0x10
_DARWIN_TCP_RXT_CONNDROPTIME = 0x80

# struct tcp_info of <linux/tcp.h>: tcpi_probes, tcpi_unacked, tcpi_last_ack_recv (ms).
_TCP_INFO = struct.Struct("=3xB20xI28xI")


def watch_peer(connection: socket.socket) -> None:
    """Lets the system find out that the peer's has gone. `connection` is TCP; it may not be connected yet."""
    tcp = socket.IPPROTO_TCP
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if sys.platform == "darwin":
        connection.setsockopt(tcp, _DARWIN_TCP_KEEPALIVE, KEEPALIVE_IDLE_S)
        connection.setsockopt(tcp, _DARWIN_TCP_RXT_CONNDROPTIME, SILENCE_S)
    elif hasattr(socket, "TCP_KEEPIDLE"):
        connection.setsockopt(tcp, socket.TCP_KEEPIDLE, KEEPALIVE_IDLE_S)
    if hasattr(socket, "TCP_KEEPINTVL"):
        connection.setsockopt(tcp, socket.TCP_KEEPINTVL, KEEPALIVE_INTERVAL_S)
        connection.setsockopt(tcp, socket.TCP_KEEPCNT, KEEPALIVE_PROBES)


def system_answers(connection: socket.socket) -> bool:
    """Whether the peer's system still acknowledges what was sent; ask only after SILENCE_S without progress.

    False: sent bytes have had no answer for SILENCE_S, or several probes of a full receive window had none.
    True where the system does not tell (only Linux does; macOS ends such connections by itself).
    """
    if not sys.platform.startswith("linux") or connection.family not in (socket.AF_INET, socket.AF_INET6):
        return True
    info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO.size)
    probes, n_unacked, silent_ms = _TCP_INFO.unpack(info)
    return not (probes >= KEEPALIVE_PROBES or (n_unacked > 0 and silent_ms >= 1000 * SILENCE_S))
