"""The text that the demo model is trained on: whole sentences, one cast for each story, right answers."""

from __future__ import annotations

import importlib
import random
import re
from pathlib import Path
from types import ModuleType

import pytest

TOOLS = Path(__file__).parents[2] / "tools"
SUM = re.compile(r"^(\d+) ([+*-]) (\d+) = (\d+)\.")


@pytest.fixture
def stories(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(TOOLS))
    return importlib.import_module("demo_model.stories")


@pytest.fixture
def chats(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(TOOLS))
    return importlib.import_module("demo_model.chats")


def test_a_story_names_nobody_but_its_cast(stories: ModuleType) -> None:
    rng = random.Random(1)
    for topic in list(stories.PLOTS) * 20:
        story = stories.tell(rng, topic=topic)
        assert not re.search(r"[\[\]{}|]", story.text), story.text
        named = {word for word in re.findall(r"[A-Z][a-z]+", story.text) if word in stories.NAMES}
        assert named == {story.hero.name, story.friend.name}, story.text


def test_a_story_is_about_whom_it_was_asked(stories: ModuleType) -> None:
    rng = random.Random(2)
    hero, friend = stories.Character("Mia", "fox"), stories.Character("Ben", "owl")
    story = stories.tell(rng, hero=hero, friend=friend, topic="a lost {thing}", thing="ball")
    assert story.topic == "a lost ball"
    assert "fox" in story.text
    assert "Ben the owl" in story.text
    assert not re.search(r"\b(hat|kite|scarf|drum|lamp)\b", story.text)


def test_conversations_take_turns_and_sums_are_right(chats: ModuleType) -> None:
    rng = random.Random(3)
    operations = {"+": int.__add__, "-": int.__sub__, "*": int.__mul__}
    n_sums = 0
    for _ in range(2000):
        messages = chats.converse(rng, 2)
        roles = [message["role"] for message in messages if message["role"] != "system"]
        assert roles == ["user", "assistant"] * 2
        for message in messages:
            content = message["content"]
            assert content.strip() == content != ""
            assert not re.search(r"[\[\]{}|]", content), content
            if message["role"] == "assistant" and (found := SUM.match(content)):
                assert operations[found[2]](int(found[1]), int(found[3])) == int(found[4]), content
                n_sums += 1
    assert n_sums > 100
