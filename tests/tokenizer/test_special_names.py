"""Names of special tokens are found in text as trying each of them at each place would find them."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from dllama.tokenizer.special_names import SpecialNames

NAMES = st.lists(st.text("<|a0", min_size=1, max_size=5), max_size=8, unique=True)
TEXTS = st.text("<|a0\n", max_size=30)


def longest_at(text: str, place: int, names: list[str]) -> str:
    return max((name for name in names if text.startswith(name, place)), key=len, default="")


@given(names=NAMES, text=TEXTS)
def test_split_finds_the_longest_name_at_the_first_place(names: list[str], text: str) -> None:
    ids = {name: number for number, name in enumerate(names)}
    parts: list[str | int] = [""]
    place = 0
    while place < len(text):
        name = longest_at(text, place, names)
        if name:
            parts += [ids[name], ""]
        else:
            parts[-1] = f"{parts[-1]}{text[place]}"
        place += len(name) or 1
    found = SpecialNames(ids)
    assert found.split(text) == parts
    assert found.are_in(text) == (len(parts) > 1)


@given(names=NAMES, text=TEXTS)
def test_initials_of_all_names_that_begin_somewhere(names: list[str], text: str) -> None:
    found = SpecialNames(dict.fromkeys(names, 0))
    begins = [place for place in range(len(text)) if longest_at(text, place, names)]
    assert found.initials(text) == {text[place] for place in begins}
    marked = "".join("X" if place in begins else character for place, character in enumerate(text))
    assert found.replace_initials(text, dict.fromkeys("<|a0", "X")) == marked
