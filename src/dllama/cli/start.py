"""Entry points of the console scripts: standard streams and Ctrl-C are made sound, then the command is imported."""

from __future__ import annotations

import importlib
import sys
from typing import NoReturn

from dllama.cli.interrupts import end_at_interrupt
from dllama.cli.streams import open_standard_streams


def run() -> NoReturn:
    """`dllama`."""
    _run(sys.argv[1:])


def run_api() -> NoReturn:
    """`dllama-api`, another name of `dllama api`."""
    _run(["api", *sys.argv[1:]])


def _run(arguments: list[str]) -> NoReturn:
    """Imports what takes long only after a Ctrl-C can no longer show where in an import it came."""
    end_at_interrupt()
    open_standard_streams()
    sys.exit(importlib.import_module("dllama.cli.main").main(arguments))
