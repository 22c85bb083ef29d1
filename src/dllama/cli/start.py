"""Entry points of the console scripts: Ctrl-C and the standard streams are sound before anything large is imported.

What is imported here, before Ctrl-C ends the program without a traceback, is as little as can be.
"""

from __future__ import annotations

import importlib
import sys

from dllama.cli.interrupts import end_at_interrupt


def run() -> None:
    """`dllama`. Ends the program."""
    _run(sys.argv[1:])


def run_api() -> None:
    """`dllama-api`, another name of `dllama api`. Ends the program."""
    _run(["api", *sys.argv[1:]])


def _run(arguments: list[str]) -> None:
    end_at_interrupt()
    importlib.import_module("dllama.cli.streams").open_standard_streams()
    sys.exit(importlib.import_module("dllama.cli.main").main(arguments))
