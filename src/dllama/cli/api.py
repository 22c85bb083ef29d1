"""`dllama api` (also `dllama-api`): flags of the HTTP server."""

from __future__ import annotations

import argparse
import importlib
import os

from dllama.cli.addresses import listening_port
from dllama.cli.logs import announce
from dllama.cli.options import add_model_flags, add_sampling_flags, positive_int
from dllama.errors import UsageError

DEFAULT_HOST = "127.0.0.1"
DEFAULT_PORT = 9990
DEFAULT_PARALLEL = 8
API_KEY_VARIABLE = "DLLAMA_API_KEY"


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("api", help="serve a model over HTTP, with a page to talk with it")
    add_model_flags(parser)
    add_sampling_flags(parser)
    group = parser.add_argument_group("server")
    group.add_argument("--host", default=DEFAULT_HOST, help="address to listen on (default %(default)s)")
    group.add_argument(
        "--port", type=listening_port, default=DEFAULT_PORT, help="port to listen on (default %(default)s)"
    )
    group.add_argument(
        "--api-key",
        action="append",
        type=api_key,
        metavar="KEY",
        help=f"who knows none is turned away; may be given often (or set {API_KEY_VARIABLE})",
    )
    group.add_argument(
        "--allow-host",
        action="append",
        default=[],
        metavar="NAME",
        help="a name that this server answers to, beside addresses, localhost and this computer's own name; * for any; "
        "may be given often",
    )
    group.add_argument(
        "--model-name", metavar="NAME", help="what clients call it (default: the model's file)"
    )
    group.add_argument(
        "--strict-model", action="store_true", help="refuse requests that name another model (default: warn)"
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
        "--chat-template", metavar="NAME", help="a built-in template, or one of the model's by its name"
    )
    parser.set_defaults(command=run)


def run(args: argparse.Namespace) -> None:
    """Imports the server's libraries only here: no other command has to wait for them."""
    args.api_key = args.api_key or _keys_of_environment()
    importlib.import_module("dllama.cli.serving").run(args)


def api_key(text: str) -> str:
    if not text.strip():
        raise argparse.ArgumentTypeError(
            "an empty key would let nobody in: leave the flag out to let everyone in"
        )
    if text != text.strip() or any(character.isspace() or ord(character) < 32 for character in text):
        raise argparse.ArgumentTypeError("a key has no white space: a request could not bring it")
    return text


def _keys_of_environment() -> list[str]:
    text = os.environ.get(API_KEY_VARIABLE)
    if text == "":
        announce(f"{API_KEY_VARIABLE} is set and empty: no key is asked for")
    if not text:
        return []
    try:
        return [api_key(text)]
    except argparse.ArgumentTypeError as error:
        raise UsageError(f"{API_KEY_VARIABLE}: {error}") from error
