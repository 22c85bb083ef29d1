"""Stop strings end a text however it is cut into tokens, and are never shown."""

from __future__ import annotations

import itertools

from hypothesis import example, given
from hypothesis import strategies as st

from dllama.engine.stopping import StopStrings

TEXTS = st.text("ab\n", max_size=30)


def first_end(text: str, strings: list[str]) -> str | None:
    """What stands before the string that is complete first (of two, the longer one), tried end by end."""
    for end in range(len(text) + 1):
        starts = [end - len(string) for string in strings if text[:end].endswith(string)]
        if starts:
            return text[: min(starts)]
    return None


def cut(text: str, places: list[int]) -> list[str]:
    bounds = [0, *sorted(place % (len(text) + 1) for place in places), len(text)]
    return [text[a:b] for a, b in itertools.pairwise(bounds)]


@given(
    text=TEXTS,
    strings=st.lists(st.text("ab\n", min_size=1, max_size=4), max_size=3),
    places=st.lists(st.integers(0, 30)),
)
@example(text="abab", strings=["abab", "ba"], places=[1, 2, 3])
def test_any_cut_shows_the_same(text: str, strings: list[str], places: list[int]) -> None:
    stop = StopStrings(strings)
    shown = ""
    for part in cut(text, places):
        shown += stop.feed(part)
        if stop.is_stopped:
            break
    wanted = first_end(text, strings)
    assert stop.is_stopped == (wanted is not None)
    if wanted is None:
        assert shown + stop.flush() == text
    else:
        assert shown == wanted
        assert stop.flush() == ""


@given(
    parts=st.lists(st.tuples(TEXTS, st.sampled_from(["", "<a>", "<b>"])), max_size=6),
    strings=st.lists(st.sampled_from(["a", "bb", "<a>", "a<b>", "<a>b", "<a><b>", "\n<b>a"]), max_size=3),
)
def test_hidden_parts_are_never_shown_and_end_a_text_by_their_names(
    parts: list[tuple[str, str]], strings: list[str]
) -> None:
    stop = StopStrings(strings)
    shown = whole = visible = ""
    for text, hidden in parts:
        shown += stop.feed(text, hidden)
        visible, whole = visible + text, whole + text + hidden
        assert stop.is_stopped == any(string in whole or string in visible for string in strings)
        if stop.is_stopped:
            assert visible.startswith(shown)
            assert not any(string in shown for string in strings)
            return
    assert shown + stop.flush() == visible


@given(text=TEXTS, strings=st.lists(st.text("ab\n", min_size=1, max_size=4), min_size=1, max_size=3))
def test_nothing_is_held_back_that_cannot_become_a_stop_string(text: str, strings: list[str]) -> None:
    stop = StopStrings(strings)
    shown = ""
    for character in text:
        shown += stop.feed(character)
        if stop.is_stopped:
            return
    held = text[len(shown) :]
    assert not held or any(string.startswith(held) for string in strings)
