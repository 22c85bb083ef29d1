"""Lines of strangers: nothing in them but what can be read, and an end."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dllama.plain_text import plain_line


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("größer als 3 µs – 日本 🙂", "größer als 3 µs – 日本 🙂"),
        ("\x1b[2J\r\n\x9b\x07\x7f", r"\x1b[2J\r\n\x9b\x07\x7f"),
        ("a\u202eb\u2028\ud800", r"a\u202eb\u2028\ud800"),
        ("x" * 30, "x" * 21 + "..."),
        ("x" * 24, "x" * 24),
        ("x" * 19 + "\x1b\x1b", "x" * 19 + "..."),
    ],
)
def test_lines(text: str, line: str) -> None:
    assert plain_line(text, longest=24) == line


@given(st.text(st.characters(), max_size=50), st.integers(8, 40))
def test_any_text_becomes_a_printable_line(text: str, longest: int) -> None:
    line = plain_line(text, longest)
    assert line.isprintable()
    assert len(line) <= longest
    assert plain_line(line, longest) == line
