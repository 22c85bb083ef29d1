"""Text of strangers (peers, clients) as one line that does nothing but be read: it moves no cursor of a terminal, turns
no line around, and is not endless."""

from __future__ import annotations

import re

LONGEST = 1000
"""Characters. No sentence of a node is as long."""

LONGEST_NAME = 100
"""Characters of a name that somebody made up, inside a sentence."""

_CUT = "..."


def plain_line(text: str, longest: int = LONGEST) -> str:
    """The text with `\\x1b` and the like in place of what cannot be printed (controls, line ends, marks of direction,
    halves of surrogate pairs), cut to at most `longest` characters."""
    if len(text) <= longest and text.isprintable():
        return text
    line = "".join(map(_printable, text[: longest + 1]))
    if len(line) <= longest and len(text) <= longest:
        return line
    cut = line[: longest - len(_CUT)]
    return re.sub(r"\\(x[0-9a-f]?|u[0-9a-f]{0,3}|U[0-9a-f]{0,7})?$", "", cut) + _CUT


def _printable(character: str) -> str:
    if character.isprintable():
        return character
    return character.encode("unicode_escape").decode("ascii")
