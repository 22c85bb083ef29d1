"""Whether a grammar can be read in reasonable time, found out in a process that is ended if it cannot."""

from __future__ import annotations

import collections
import hashlib
import json
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from dllama.errors import SystemLimitError
from dllama.host.limited_process import passed_its_time, start_limited

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
    """Remembers what was found out. For one thread, but for `close`."""

    def __init__(self, limits: Mapping[str, int | bool]) -> None:
        """`limits` are those of llguidance.LLParserLimits."""
        self._limits = dict(limits)
        self._known: collections.OrderedDict[bytes, str | None] = collections.OrderedDict()
        self._process: subprocess.Popen[bytes] | None = None
        self._is_closed = False

    def fault(self, grammar: str) -> str | None:
        """What is wrong with the grammar; None where nothing is. Raises SystemLimitError where it cannot be tried."""
        if not _TELLTALE.search(grammar):
            return None
        digest = hashlib.sha256(grammar.encode()).digest()
        if digest not in self._known:
            self._known[digest] = self._try(grammar)
            if len(self._known) > _N_KEPT:
                self._known.popitem(last=False)
        self._known.move_to_end(digest)
        return self._known[digest]

    def close(self) -> None:
        """Ends the process that is under way; any thread may say so. Nothing is read well afterwards."""
        self._is_closed = True
        if self._process is not None:
            self._process.kill()

    def _try(self, grammar: str) -> str | None:
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
        if process.returncode:
            return "reading it takes more memory than there is for it"
        return fault.decode(errors="replace")[:_LONGEST_FAULT] or None
