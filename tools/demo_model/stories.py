"""Short children's stories from a grammar: the plain text that the demo model is trained on.

The plots are in text/plots.txt. A story draws its cast once, so names, pronouns, colours and things stay the
same from its first sentence to its last.
"""

from __future__ import annotations

import dataclasses
import random
import re
from collections.abc import Sequence
from pathlib import Path

GIRLS = ("Mia", "Lily", "Anna", "Rosa", "Ella", "Nora", "Emma", "Zoe", "Ruby", "Lucy", "Ida", "Clara")
BOYS = ("Tom", "Ben", "Max", "Leo", "Sam", "Finn", "Oscar", "Hugo", "Jack", "Paul", "Tim", "Noah")
NAMES = GIRLS + BOYS

ANIMALS = (
    *(
        "fox",
        "bear",
        "rabbit",
        "mouse",
        "owl",
        "cat",
        "dog",
        "duck",
        "hedgehog",
        "squirrel",
        "frog",
        "turtle",
    ),
    *(
        "pony",
        "lamb",
        "elephant",
        "lion",
        "monkey",
        "penguin",
        "pig",
        "goat",
        "dragon",
        "robot",
        "wolf",
        "goose",
    ),
)
ADJECTIVES = ("little", "small", "young", "brave", "shy", "kind", "clever", "happy", "curious", "funny")
COLOURS = ("red", "blue", "green", "yellow", "white", "purple", "pink", "brown")
THINGS = ("ball", "hat", "kite", "scarf", "book", "drum", "key", "cup", "boat", "lamp", "bag", "bell")
FOODS = ("apples", "pears", "cakes", "cookies", "berries", "nuts", "plums", "carrots")
PLANTS = ("flower", "pumpkin", "apple tree", "rose", "sunflower", "cherry tree")
THINGS_OF_PLOT = {
    "a {thing} in a tree": ("kite", "hat", "scarf", "ball"),
    "a broken {thing}": ("cup", "lamp", "bell", "drum", "boat", "kite"),
}
NUMBERS = ("two", "three", "four", "five", "six", "eight", "ten")
HOMES = (
    *("a small house near the forest", "a cosy house by the river", "a little hut on the hill"),
    *("a quiet village by the sea", "an old house in the valley", "a green garden behind the mill"),
    *("a warm house at the edge of the town", "a little house under the big oak tree"),
)
SPOTS = (
    *(
        "under the bed",
        "behind the door",
        "in the kitchen",
        "under the big tree",
        "behind the bush",
        "by the river",
    ),
    *(
        "in the tall grass",
        "near the old well",
        "under the bridge",
        "in the garden",
        "on the hill",
        "behind the barn",
    ),
)

OPENINGS = (
    "Once upon a time there was a {adj} {kind} named {H}. {He} lived in {home}.",
    "Once upon a time, a {adj} {kind} named {H} lived in {home}.",
    "There once was a {adj} {kind} called {H}. {He} lived in {home}.",
    "{H} was a {adj} {kind}. {He} lived in {home}.",
    "In {home} there lived a {adj} {kind}. {His} name was {H}.",
    "[One day|One morning], {H} the {kind} woke up early. {He} lived in {home}.",
    "The {adj} {kind} was called {H}. {He} lived in {home}.",
)
HELLO_OPENINGS = (
    '"Hello world[!|,]" said {H}, the {adj} {kind}, and looked out of the window. {He} lived in {home}.',
    "Hello world[!|,] said {H}, the {adj} {kind}, and looked out of the window. {He} lived in {home}.",
)
ENDINGS = (
    "[They played together until the sun went down|That evening they sat by the fire and laughed].",
    "[Then they went home and had warm soup|They ate cake and sang a happy song together].",
    "From that day on, {H} and {F} were best friends.",
    "That night {H} went to bed with a big smile.",
    "And {H} never forgot that day.",
)


def read_blocks(name: str) -> list[list[str]]:
    """The paragraphs of a file in text/, line by line, without its comments."""
    text = (Path(__file__).parent / "text" / name).read_text(encoding="utf-8")
    paragraphs = re.split(r"\n{2,}", text)
    blocks = [[line for line in lines.splitlines() if line and line[0] != "#"] for lines in paragraphs]
    return [block for block in blocks if block]


PLOTS = {block[0].removeprefix("= "): block[1:] for block in read_blocks("plots.txt")}

_ALTERNATIVES = re.compile(r"\[([^\[\]]*)\]")


def expand(template: str, slots: dict[str, str], rng: random.Random) -> str:
    """The template with one alternative of each `[a|b]` (no nesting) and every `{slot}` filled in."""
    chosen = _ALTERNATIVES.sub(lambda match: rng.choice(match[1].split("|")), template)
    return chosen.format_map(slots)


def with_article(noun: str) -> str:
    """`a fox`, `an owl`."""
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"


@dataclasses.dataclass(frozen=True)
class Character:
    """Somebody in a story: a name, what they are, and the pronouns that go with both."""

    name: str
    kind: str

    @property
    def pronouns(self) -> tuple[str, str, str]:
        return ("she", "her", "her") if self.name in GIRLS else ("he", "him", "his")

    @classmethod
    def draw(cls, rng: random.Random, kind: str | None = None, name: str | None = None) -> Character:
        """A character of this kind and name; what is not given is drawn. Three of four are animals."""
        if kind is None:
            kind = rng.choice(ANIMALS) if rng.random() < 0.75 else "child"
        if name is None:
            name = rng.choice(GIRLS if kind == "girl" else BOYS if kind == "boy" else NAMES)
        if kind == "child":
            kind = "girl" if name in GIRLS else "boy"
        return cls(name, kind)


@dataclasses.dataclass(frozen=True)
class Story:
    """A story's text, and what one may ask about it afterwards."""

    text: str
    topic: str
    hero: Character
    friend: Character


def tell(
    rng: random.Random,
    *,
    hero: Character | None = None,
    friend: Character | None = None,
    topic: str | None = None,
    thing: str | None = None,
    openings: Sequence[str] = OPENINGS,
) -> Story:
    """A story with this hero, friend, topic (a key of PLOTS) and thing; what is not given is drawn."""
    hero = hero or Character.draw(rng)
    while friend is None or friend.name == hero.name or friend.kind == hero.kind:
        friend = Character.draw(rng, rng.choice(ANIMALS))
    topic = topic or rng.choice(list(PLOTS))
    slots = _slots(rng, hero, friend)
    slots["thing"] = thing or rng.choice(THINGS_OF_PLOT.get(topic, THINGS))
    lines = [
        line.removeprefix("?") for line in PLOTS[topic] if not line.startswith("?") or rng.random() < 0.5
    ]
    lines = [rng.choice(openings), *lines, rng.choice(ENDINGS)]
    text = " ".join(expand(line, slots, rng) for line in lines)
    return Story(text, topic.format_map(slots), hero, friend)


def _slots(rng: random.Random, hero: Character, friend: Character) -> dict[str, str]:
    spots = rng.sample(SPOTS, 4)
    foods = rng.sample(FOODS, 2)
    he, him, his = hero.pronouns
    fhe, fhim, fhis = friend.pronouns
    return {
        "H": hero.name,
        "kind": hero.kind,
        "he": he,
        "him": him,
        "his": his,
        "He": he.capitalize(),
        "His": his.capitalize(),
        "Fhe": fhe.capitalize(),
        "F": friend.name,
        "fkind": friend.kind,
        "fhe": fhe,
        "fhim": fhim,
        "fhis": fhis,
        "adj": rng.choice(ADJECTIVES),
        "home": rng.choice(HOMES),
        "number": rng.choice(NUMBERS),
        "colour": rng.choice(COLOURS),
        "plant": rng.choice(PLANTS),
        "spot": spots[0],
        "spot1": spots[1],
        "spot2": spots[2],
        "spot3": spots[3],
        "Spot2": spots[2].capitalize(),
        "food": foods[0],
        "food2": foods[1],
    }
