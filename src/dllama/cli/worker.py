"""`dllama worker`: computes for roots that call it."""

from __future__ import annotations

import argparse
import ipaddress
import logging

from dllama.cli.addresses import WORKER_PORT, listening_port
from dllama.cli.devices import DeviceKind, make_device
from dllama.cli.logs import announce
from dllama.cli.options import add_node_flags, node_settings
from dllama.fabric import format_address, listen, listen_everywhere, own_hosts
from dllama.kernels import Device
from dllama.node import Worker

_log = logging.getLogger(__name__)

_LOOPBACK = ("localhost", "::1")


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("worker", help="compute for a root; needs no model file")
    parser.add_argument("--host", help="address to listen on (default: all, of IPv4 and IPv6)")
    parser.add_argument(
        "--port", type=listening_port, default=WORKER_PORT, help="port to listen on (default %(default)s)"
    )
    add_node_flags(parser)
    parser.set_defaults(command=run)


def run(args: argparse.Namespace) -> None:
    device = make_device(DeviceKind(args.device), args.nthreads, args.isa)
    with listen(args.host, args.port) if args.host else listen_everywhere(args.port) as listener:
        host, port = listener.getsockname()[:2]
        _say_where(host, port, device)
        if not (host.startswith("127.") or host in _LOOPBACK):
            announce(
                "anyone who reaches this port can use this node and read what passes: "
                "run it in a network that you trust"
            )
        Worker(listener, device, node_settings(args), _log.info).serve()


def _say_where(host: str, port: int, device: Device) -> None:
    threads = "1 thread" if device.n_threads == 1 else f"{device.n_threads} threads"
    announce(f"worker listens on {format_address(host, port)} with {threads} ({device.isa})")
    if ipaddress.ip_address(host).is_unspecified:
        addresses = [format_address(own, port) for own in own_hosts()]
        others = f" (or {', '.join(addresses[1:])})" if addresses[1:] else ""
        announce(
            f"at the root: --workers {addresses[0]}{others}"
            if addresses
            else "this computer is in no network"
        )
