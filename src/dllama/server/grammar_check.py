"""Whether a grammar can be read in reasonable time, found out in a process that is ended if it cannot."""

from __future__ import annotations

import collections
import hashlib
import json
import re
import subprocess
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from dllama.errors import SystemLimitError
from dllama.host.limited_process import killed_from_outside, passed_its_time, start_limited

_PROGRAM: Final = Path(__file__).with_name("grammar_process.py")

_TIME_S: Final = 2.0
"""Processor time for one grammar. Schemas of a hundred kilobytes take a tenth of it."""

_PATIENCE_S: Final = 20.0
"""By the clock, where processors are busy."""

_MEMORY_BYTES: Final = 1 << 30

_N_KEPT: Final = 1024

_LONGEST_FAULT: Final = 10_000
"""Characters: it may quote the grammar."""

_TELLTALE: Final = re.compile(r'"(allOf|pattern|patternProperties|format|not|multipleOf)\\?"')
"""What a grammar has whose expressions are intersections or complements; others take time by their size, which
llguidance limits."""


class GrammarCheck:
    """Remembers what was found out: what is wrong with a grammar, empty where nothing is."""

    def __init__(self, limits: Mapping[str, int | bool]) -> None:
        """`limits` are those of llguidance.LLParserLimits."""
        self._limits = dict(limits)
        self._lock = threading.Lock()
        self._known: collections.OrderedDict[bytes, str] = collections.OrderedDict()
        self._process: subprocess.Popen[bytes] | None = None
        self._is_closed = False

    def known_fault(self, grammar: str) -> str | None:
        """At once; None where it has to be tried. Any thread may ask."""
        if not _TELLTALE.search(grammar):
            return ""
        digest = _digest(grammar)
        with self._lock:
            if digest in self._known:
                self._known.move_to_end(digest)
            return self._known.get(digest)

    def fault(self, grammar: str) -> str:
        """In seconds, where it has to be tried. For one thread. Raises SystemLimitError where it cannot be tried."""
        fault = self.known_fault(grammar)
        if fault is None:
            fault = self._try(grammar)
            with self._lock:
                self._known[_digest(grammar)] = fault
                if len(self._known) > _N_KEPT:
                    self._known.popitem(last=False)
        return fault

    def close(self) -> None:
        """Ends the process that is under way; any thread may say so. Nothing is read well afterwards."""
        self._is_closed = True
        if self._process is not None:
            self._process.kill()

    def _try(self, grammar: str) -> str:
        request = {
            "grammar": grammar,
            "limits": self._limits,
            "time_s": _TIME_S,
            "memory_bytes": _MEMORY_BYTES,
        }
        with start_limited(_PROGRAM, "a grammar") as process:
            self._process = process
            patience_s = 0 if self._is_closed else _PATIENCE_S
            try:
                fault, _ = process.communicate(json.dumps(request).encode(), patience_s)
            except subprocess.TimeoutExpired:
                raise SystemLimitError(
                    "this computer is too busy to read the grammar: try again later"
                ) from None
            finally:
                process.kill()
        if passed_its_time(process.returncode):
            return f"reading it takes more than {_TIME_S:g} s"
        if killed_from_outside(process.returncode):
            raise SystemLimitError(
                "the process that reads the grammar was killed, perhaps for want of memory: try again later"
            )
        if process.returncode:
            return "reading it takes more memory than there is for it"
        return fault.decode(errors="replace")[:_LONGEST_FAULT]


def _digest(grammar: str) -> bytes:
    return hashlib.sha256(grammar.encode()).digest()
