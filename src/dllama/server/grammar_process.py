"""A program that reads one grammar, in a process that may be killed. See grammar_check.py.

To find out whether a regular expression matches anything at all can take for ever (an `allOf` of patterns), and
llguidance has no limit for that: so it is tried here first, under limits that the operating system keeps.

Standard input is JSON: `grammar`, `limits` (those of llguidance), `time_s` of the processor, `memory_bytes`. Standard
output is what is wrong with the grammar, empty if nothing.
"""

from __future__ import annotations

import contextlib
import json
import resource
import signal
import sys

import llguidance


def main() -> None:
    request = json.load(sys.stdin)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for whoever started this process
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(ValueError, OSError):  # a lower limit is there already, or the system knows none
        resource.setrlimit(resource.RLIMIT_AS, (request["memory_bytes"], request["memory_bytes"]))
    signal.setitimer(signal.ITIMER_PROF, request["time_s"])  # its signal ends the process
    is_wrong, messages = llguidance.LLMatcher.validate_grammar_with_warnings(
        request["grammar"], limits=llguidance.LLParserLimits(**request["limits"])
    )
    sys.stdout.write(messages[0] if is_wrong else "")


if __name__ == "__main__":
    main()
