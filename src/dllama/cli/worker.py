"""`dllama worker`: computes for roots that call it."""

from __future__ import annotations

import argparse

from dllama.cli.console import note
from dllama.cli.options import DEFAULT_PORT, add_node_flags, node_settings
from dllama.cli.session import make_compute
from dllama.errors import UsageError
from dllama.fabric import format_address, listen
from dllama.node import Worker

_LOOPBACK = ("localhost", "::1")


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("worker", help="compute for a root; needs no model file")
    parser.add_argument("--host", default="0.0.0.0", help="address to listen on (default: all)")
    parser.add_argument(
        "--port", type=int, default=DEFAULT_PORT, help="port to listen on (default %(default)s)"
    )
    add_node_flags(parser)
    parser.set_defaults(command=run)


def run(args: argparse.Namespace) -> None:
    if not 0 <= args.port < 65536:
        raise UsageError(
            f"--port {args.port} is no port: take one from 1 to 65535, or 0 for any that is free"
        )
    compute = make_compute(args.nthreads, args.isa)
    with listen(args.host, args.port) as listener:
        host, port = listener.getsockname()[:2]
        threads = "1 thread" if compute.n_threads == 1 else f"{compute.n_threads} threads"
        note(f"worker listens on {format_address(host, port)} with {threads} ({compute.isa})")
        if not (host.startswith("127.") or host in _LOOPBACK):
            note(
                "anyone who reaches this port can use this node and read what passes: "
                "run it in a network that you trust"
            )
        Worker(listener, compute, node_settings(args), note).serve()
