"""The `dllama` command: parses the command line, runs one subcommand, turns errors into one line."""

from __future__ import annotations

import argparse
import contextlib
import errno
import io
import logging
import os
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from dllama import __version__
from dllama.cli import api, bench, chat, convert, download, inference, info, perplexity, tokenize, worker
from dllama.cli.console import note
from dllama.cli.hub_models import find_models
from dllama.cli.interrupts import INTERRUPTED, Ending, interrupts_raise
from dllama.cli.job import Command, run_in_job
from dllama.cli.logs import LEVELS, log_lines
from dllama.cli.settings import with_flags
from dllama.cli.streams import OUTPUT_NAME, discard_output
from dllama.errors import DllamaError
from dllama.fabric import launched_rank

_log = logging.getLogger(__name__)


def main(arguments: Sequence[str]) -> int:
    """Exit code: 0 done, 1 failed, 2 used wrongly, 130 interrupted, 143 told to end, 129 its terminal was closed."""
    ending = Ending()
    ending.listen()
    rank = launched_rank(os.environ)
    try:
        args = parse_arguments(arguments, is_silent=bool(rank))
    except SystemExit as end:  # --help, or a wrong use
        return 0 if rank else _flushed(int(end.code or 0))  # rank 0 says it
    args.isa = os.environ.get("DLLAMA_ISA") or None
    args.job, args.ending = None, ending
    is_server = args.command in (api.run, worker.run)
    is_told = args.command is worker.run or (args.command is api.run and not rank)  # rank 0 says it
    with log_lines(_log_level(args, is_told), is_server=is_server):
        if rank is not None and args.command is not worker.run:
            return run_in_job(rank, args, _guarded)
        return _guarded(args.command, args)


def _log_level(args: argparse.Namespace, is_told: bool) -> str:
    """`is_told`: whether people see what goes on where they do not say what they want to see."""
    if args.debug:
        return "debug"
    return args.log_level or ("info" if is_told else "warning")


def _guarded(command: Command, args: argparse.Namespace) -> int:
    """Runs the command; returns the exit code, having said in one line what went wrong."""
    return _flushed(_outcome(command, args))


def _outcome(command: Command, args: argparse.Namespace) -> int:
    try:
        with interrupts_raise():
            find_models(args)
            command(args)
            sys.stdout.flush()
    except DllamaError as error:
        return _fail(with_flags(error), error, error.exit_code)
    except KeyboardInterrupt:
        print(file=sys.stderr)
        return INTERRUPTED
    except MemoryError as error:
        message = "memory ran out; more or larger nodes or a smaller --max-seq-len would help"
        return _fail(message, error, 1)
    except OSError as error:
        if _is_left(error):
            return 1
        return _fail(_os_error_line(error), error, 1)
    return 0


def _flushed(code: int) -> int:
    """The exit code, 1 instead of 0 where standard output could not take all that was printed."""
    try:
        sys.stdout.flush()
    except OSError as error:
        discard_output()
        if code == 0 and not _is_left(error):
            return _fail(_os_error_line(error), error, 1)
        return code or 1
    return code


def _is_left(error: OSError) -> bool:
    """Whether the reader of our output has gone, as with `| head`: nobody is to be told."""
    return error.errno == errno.EPIPE and error.filename == OUTPUT_NAME


def parse_arguments(arguments: Sequence[str], is_silent: bool = False) -> argparse.Namespace:
    """Ends the program with exit code 2 and one line when they are wrong; without the line where `is_silent`."""
    if not is_silent:
        return _parser().parse_args(arguments)
    with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
        return _parser().parse_args(arguments)


class _Parser(argparse.ArgumentParser):
    """One line for a wrong use, and --debug and --log-level after every command."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.add_argument(
            "--debug", action="store_true", default=argparse.SUPPRESS, help="the same as --log-level debug"
        )
        self.add_argument(
            "--log-level",
            type=str.lower,
            choices=LEVELS,
            default=argparse.SUPPRESS,
            help="what is logged: debug is all, with tracebacks (default: warning; of servers: info)",
        )

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="dllama",
        description="Several ordinary computers run one large language model.",
        allow_abbrev=False,
    )
    parser.set_defaults(debug=False, log_level=None)
    parser.add_argument("--version", action="version", version=f"dllama {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for module in (inference, chat, api, worker, download, convert, info, perplexity, tokenize, bench):
        module.add_parser(commands)
    return parser


def _fail(message: str, error: BaseException, exit_code: int) -> int:
    _log.debug("traceback", exc_info=error)
    note(f"dllama: {' '.join(message.split())}")
    return exit_code


def _os_error_line(error: OSError) -> str:
    where = f"{error.filename}: " if error.filename else ""
    return f"{where}{error.strerror or error}"
