"""A program that reads one grammar, in a process that may be killed. See grammar_check.py.

To find out whether a regular expression matches anything at all can take for ever (an `allOf` of patterns), and
llguidance has no limit for that: so it is tried here first, under limits that the operating system keeps.

Standard input is JSON: `grammar`, `limits` (those of llguidance), `time_s` of the processor, `memory_bytes`. Standard
output is what is wrong with the grammar, empty if nothing.
"""

from __future__ import annotations

import json
import sys

import llguidance

from dllama.host.limited_process import limit_process, limit_time


def main() -> None:
    request = json.load(sys.stdin.buffer)
    limit_process(request["memory_bytes"])
    limit_time(request["time_s"])
    is_wrong, messages = llguidance.LLMatcher.validate_grammar_with_warnings(
        request["grammar"], limits=llguidance.LLParserLimits(**request["limits"])
    )
    sys.stdout.buffer.write(messages[0].encode() if is_wrong else b"")


if __name__ == "__main__":
    main()
