"""`dllama api` (also `dllama-api`): flags of the HTTP server."""

from __future__ import annotations

import argparse
import importlib
import os

from dllama.cli.options import DEFAULT_PORT, add_model_flags, add_sampling_flags, positive_int

DEFAULT_HOST = "127.0.0.1"
DEFAULT_PARALLEL = 8
API_KEY_VARIABLE = "DLLAMA_API_KEY"


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("api", help="serve a model over HTTP, with a page to talk with it")
    add_model_flags(parser)
    add_sampling_flags(parser)
    group = parser.add_argument_group("server")
    group.add_argument("--host", default=DEFAULT_HOST, help="address to listen on (default %(default)s)")
    group.add_argument(
        "--port", type=int, default=DEFAULT_PORT, help="port to listen on (default %(default)s)"
    )
    group.add_argument(
        "--api-key",
        action="append",
        metavar="KEY",
        help=f"who knows none is turned away; may be given often (or set {API_KEY_VARIABLE})",
    )
    group.add_argument(
        "--model-name", metavar="NAME", help="what clients call it (default: the model's file)"
    )
    group.add_argument(
        "--parallel",
        type=positive_int,
        default=DEFAULT_PARALLEL,
        metavar="N",
        help="texts at once (default %(default)s); others wait",
    )
    group.add_argument(
        "--cors-origin",
        action="append",
        default=[],
        metavar="ORIGIN",
        help="a web site whose pages may ask (https://chat.example.org, or *); may be given often",
    )
    group.add_argument(
        "--chat-template", metavar="NAME", help="a built-in template in place of the model's own"
    )
    parser.set_defaults(command=run)


def run(args: argparse.Namespace) -> None:
    """Imports the server's libraries only here: no other command has to wait for them."""
    args.api_key = args.api_key or [key for key in [os.environ.get(API_KEY_VARIABLE, "")] if key]
    importlib.import_module("dllama.cli.serving").run(args)
