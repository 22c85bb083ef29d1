"""Where nodes are and how long they may be silent, as people write it: the values of flags.

Every function raises ArgumentTypeError with a line that says how to write it.
"""

from __future__ import annotations

import argparse
import ipaddress

from dllama.fabric import LEAST_PEER_TIMEOUT_S
from dllama.node import Address
from dllama.node.soundness import MOST_PEER_TIMEOUT_S, check_peer_timeout

WORKER_PORT = 9998
"""Where a worker listens, and where it is looked for, unless somebody says otherwise."""


def parse_address(text: str) -> Address:
    """`host:port`, `host` (port 9998), `[v6]:port`, `[v6]` or `v6`; of IPv6 also with a zone, `fe80::1%eth0`."""
    _refuse_other_spellings(text)
    host, colon, port = text.rpartition(":")
    if not colon or host.endswith(":") or (":" in host and not host.endswith("]")):
        host, port = text, str(WORKER_PORT)
    is_bracketed = host.startswith("[") and host.endswith("]")
    host = host[1:-1] if is_bracketed else host
    is_port = port.isascii() and port.isdigit() and 0 < int(port) < 65536
    if not host or not is_port or any(sign in host for sign in "[]/ "):
        raise argparse.ArgumentTypeError(
            f"{text} is no address of a worker: write host:port, as in 10.0.0.2:{WORKER_PORT} or "
            f"[fd00::2]:{WORKER_PORT}"
        )
    if ":" in host and not _is_ipv6(host):
        raise argparse.ArgumentTypeError(f"{text} is no IPv6 address: write [fd00::2]:{WORKER_PORT}")
    return Address(host, int(port))


def _refuse_other_spellings(text: str) -> None:
    """What other programs take for a list or an address, with the way to write it here."""
    parts = [part for part in text.split(",") if part]
    if "," in text:
        raise argparse.ArgumentTypeError(
            f"{text}: workers are separated by spaces, not by commas: --workers {' '.join(parts)}"
        )
    scheme, separator, rest = text.partition("://")
    if separator:
        raise argparse.ArgumentTypeError(
            f"{text}: a worker is called by host and port alone, without {scheme}://: --workers {rest.rstrip('/')}"
        )


def _is_ipv6(host: str) -> bool:
    try:
        ipaddress.IPv6Address(host)
    except ValueError:
        return False
    return True


def peer_timeout(text: str) -> float:
    try:
        seconds = float(text)
        check_peer_timeout(seconds)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text} is no number of seconds from {LEAST_PEER_TIMEOUT_S:g} to {MOST_PEER_TIMEOUT_S:g}"
        ) from None
    return seconds


def listening_port(text: str) -> int:
    if not text.isdecimal() or len(text) > 5 or int(text) > 65535:
        raise argparse.ArgumentTypeError(
            f"{text} is no port: take one from 1 to 65535, or 0 for any that is free"
        )
    return int(text)
