"""Simple questions with right answers, and questions that a small model cannot answer and says so."""

from __future__ import annotations

import random
from collections.abc import Callable

from demo_model.facts import (
    ANIMAL_FACTS,
    COLOUR_OF,
    DAYS,
    DEFINITIONS,
    JOKES,
    KINDS_OF,
    MIXED_COLOURS,
    MONTHS,
    NUMBER_WORDS,
    OPPOSITES,
    SHAPES,
    UNKNOWN_ANSWERS,
    UNKNOWN_WORDS,
)
from demo_model.stories import NAMES, expand, read_blocks, with_article

Turn = tuple[str, str]
"""What the user says, and the answer."""

SMALL_TALK = [
    (line.removeprefix("> "), [answer for answer in block if answer[0] != ">"])
    for block in read_blocks("small_talk.txt")
    for line in block
    if line[0] == ">"
]
UNKNOWN_QUESTIONS = [line for block in read_blocks("unknown.txt") for line in block]

LARGEST_ADDEND = 10
LARGEST_FACTOR = 5


def fill(rng: random.Random, question: str, answer: str, **slots: object) -> Turn:
    """Both templates with their alternatives chosen and their slots filled in."""
    words = {name: str(value) for name, value in slots.items()}
    return expand(question, words, rng), expand(answer, words, rng)


def small_talk(rng: random.Random) -> Turn:
    question, answers = rng.choice(SMALL_TALK)
    return fill(rng, question, rng.choice(answers))


def joke(rng: random.Random) -> Turn:
    question = "[Tell me a joke|Do you know a joke|Make me laugh|Tell me something funny]."
    return fill(rng, question, rng.choice(JOKES))


def colour(rng: random.Random) -> Turn:
    thing, its_colour = rng.choice(COLOUR_OF)
    be = "are" if thing.endswith("s") and not thing.endswith("ss") else "is"
    question = f"[What colour|What color|Which colour] {be} {thing}?"
    return fill(rng, question, f"{thing[0].upper()}{thing[1:]} {be} {its_colour}.")


def mixed_colour(rng: random.Random) -> Turn:
    first, second, mixed = rng.choice(MIXED_COLOURS)
    if rng.random() < 0.5:
        first, second = second, first
    question = f"What [colour do you get|do you get|happens] [if|when] you mix {first} and {second}?"
    return fill(rng, question, f"{first.capitalize()} and {second} make {mixed}.")


def opposite(rng: random.Random) -> Turn:
    word, other = rng.sample(rng.choice(OPPOSITES), 2)
    ask = "[What is the opposite of|What's the opposite of|Tell me the opposite of|Opposite of]"
    return fill(rng, f"{ask} {word}?", f"The opposite of {word} is {other}.")


def arithmetic(rng: random.Random) -> Turn:
    """Sums and differences of numbers up to 10, products of numbers up to 5."""
    sign = rng.choice("++++--*")
    largest = LARGEST_FACTOR if sign == "*" else LARGEST_ADDEND
    a, b = rng.randint(0, largest), rng.randint(0, largest)
    if sign == "-":
        a += b
    word = {"+": "plus", "-": "minus", "*": "times"}[sign]
    result = {"+": a + b, "-": a - b, "*": a * b}[sign]
    draw = rng.random()
    if draw < 0.2 and max(a, b) < len(NUMBER_WORDS):
        question = f"What is {NUMBER_WORDS[a]} {word} {NUMBER_WORDS[b]}?"
    elif draw < 0.3:
        question = f"{a}{sign}{b}"
    else:
        question = f"[What is|How much is|What's] {a} [{sign}|{sign}|{word}] {b}?"
    return fill(rng, question, f"{a} {sign} {b} = {result}.")


def large_arithmetic(rng: random.Random) -> Turn:
    a, b = rng.randint(30, 999), rng.randint(11, 999)
    answer = "These numbers are too big for me. I can only do small sums."
    return fill(rng, f"[What is |How much is |]{a} [+|-|*|plus|minus|times] {b}?", answer)


def word_problem(rng: random.Random) -> Turn:
    a, b = rng.randint(1, 9), rng.randint(1, 9)
    things, name = rng.choice(("apples", "cakes", "nuts", "books", "balls")), rng.choice(NAMES)
    if rng.random() < 0.5:
        question = f"{name} has {a} {things} and gets {b} more. How many {things} does {name} have?"
        return question, f"{a} + {b} = {a + b}. {name} has {a + b} {things}."
    question = f"{name} has {a + b} {things} and gives away {b}. How many {things} are left?"
    return question, f"{a + b} - {b} = {a}. There are {a} {things} left."


def neighbour_number(rng: random.Random) -> Turn:
    n = rng.randint(1, 30)
    step, word = rng.choice(((1, "after"), (-1, "before")))
    question = f"[What number comes|What comes|Which number comes] {word} {n}?"
    return fill(rng, question, f"{n + step} comes {word} {n}.")


def bigger_number(rng: random.Random) -> Turn:
    a, b = rng.sample(range(21), 2)
    question = f"[Which is|Which number is|What is] bigger, {a} or {b}?"
    return fill(rng, question, f"{max(a, b)} is bigger than {min(a, b)}.")


def counting(rng: random.Random) -> Turn:
    draw = rng.random()
    if draw < 0.3:
        first = rng.randint(3, 12)
        question, numbers = f"[Count down from|Count backwards from] {first}.", range(first, 0, -1)
    elif draw < 0.6:
        first, last = rng.randint(1, 6), rng.randint(7, 15)
        question = f"[Count|Can you count|Please count] from {first} to {last}."
        numbers = range(first, last + 1)
    else:
        last = rng.randint(3, 20)
        question, numbers = f"[Count|Can you count|Please count] to {last}.", range(1, last + 1)
    return fill(rng, question, ", ".join(map(str, numbers)) + ".")


def calendar(rng: random.Random) -> Turn:
    """What comes before and after, how many there are, and all of them, for days and months."""
    weekdays = (DAYS, "day", "week", "seven")
    names, unit, whole, count = rng.choice((weekdays, weekdays, (MONTHS, "month", "year", "twelve")))
    draw = rng.random()
    if draw < 0.12:
        question = f"[How many {unit}s are in a {whole}|How many {unit}s does a {whole} have]?"
        return fill(rng, question, f"A {whole} has {count} {unit}s.")
    if draw < 0.3:
        question = f"[What are|Name|Tell me] the {unit}s of the {whole}[?|.]"
        listed = ", ".join(names[:-1]) + f" and {names[-1]}"
        return fill(rng, question, f"The {unit}s of the {whole} are {listed}.")
    at = rng.randrange(len(names))
    step, word = rng.choice(((1, "after"), (-1, "before")))
    question = f"[What {unit} comes|What comes|Which {unit} comes|Which {unit} is] {word} {names[at]}?"
    return fill(rng, question, f"{names[(at + step) % len(names)]} comes {word} {names[at]}.")


def letter(rng: random.Random) -> Turn:
    at = rng.randrange(1, 25)
    step, word = rng.choice(((1, "after"), (-1, "before")))
    here, there = chr(ord("A") + at), chr(ord("A") + at + step)
    return fill(
        rng, f"[What letter comes|Which letter comes] {word} {here}?", f"{there} comes {word} {here}."
    )


def animal(rng: random.Random) -> Turn:
    name, sound, young, home, food = rng.choice(ANIMAL_FACTS)
    a = with_article(name)
    questions = (
        (f"[What sound does {a} make|What does {a} say|How does {a} go]?", f"{{A}} says: {sound}!"),
        (f"What is a [baby|young] {name} called?", f"A baby {name} is called {with_article(young)}."),
        (f"What do you call a baby {name}?", f"A baby {name} is called {with_article(young)}."),
        (f"Where does {a} live?", f"{{A}} lives {home}."),
        (f"What does {a} eat?", f"{{A}} eats {food}."),
    )
    return fill(rng, *rng.choice(questions), A=a.capitalize())


def definition(rng: random.Random) -> Turn:
    thing, text = rng.choice(DEFINITIONS)
    question = f"[What is {thing}|What's {thing}|Tell me about {thing}|Do you know what {thing} is]?"
    return fill(rng, question, text)


def kind_of(rng: random.Random) -> Turn:
    """Is a fox an animal?"""
    asked = rng.choice(list(KINDS_OF))
    true_kind = asked if rng.random() < 0.5 else rng.choice(list(KINDS_OF))
    a = with_article(rng.choice(KINDS_OF[true_kind]))
    right, wrong = with_article(true_kind), with_article(asked)
    answer = f"Yes, {a} is {right}." if asked == true_kind else f"No, {a} is not {wrong}. It is {right}."
    return fill(rng, f"Is {a} {wrong}?", answer)


def three_of_a_kind(rng: random.Random) -> Turn:
    kind = rng.choice(list(KINDS_OF))
    first, second, third = (with_article(word) for word in rng.sample(KINDS_OF[kind], 3))
    question = f"[Name three {kind}s|Tell me three {kind}s|Give me three {kind}s]."
    return fill(rng, question, f"Three {kind}s: {first}, {second} and {third}.")


def shape(rng: random.Random) -> Turn:
    name, sides = rng.choice(SHAPES)
    return fill(rng, f"How many [sides|corners] does a {name} have?", f"A {name} has {sides}.")


def unknown(rng: random.Random) -> Turn:
    words = [rng.choice(UNKNOWN_WORDS) if rng.random() < 0.7 else made_up_word(rng) for _ in "wxy"]
    slots: dict[str, object] = dict(zip("wxy", words, strict=True))
    return fill(rng, rng.choice(UNKNOWN_QUESTIONS), rng.choice(UNKNOWN_ANSWERS), **slots)


def unknown_word(rng: random.Random) -> Turn:
    question = f"[What is the opposite of|What colour is a|What does a {{w}} say to a] {made_up_word(rng)}?"
    return fill(rng, question, "I do not know that word.", w=made_up_word(rng))


def made_up_word(rng: random.Random) -> str:
    """Letters that the model has never seen in this order, so that it meets new words as such."""
    consonants, vowels = "bcdfghjklmnprstvwz", "aeiou"
    word = "".join(rng.choice(consonants) + rng.choice(vowels) for _ in range(rng.randint(2, 4)))
    return word + rng.choice(("", "", "n", "s", "r", "t", "tion", "ing"))


QUESTIONS: tuple[tuple[Callable[[random.Random], Turn], float], ...] = (
    (small_talk, 15),
    (joke, 2),
    (colour, 6),
    (mixed_colour, 2),
    (opposite, 8),
    (arithmetic, 18),
    (large_arithmetic, 1),
    (word_problem, 3),
    (neighbour_number, 2),
    (bigger_number, 1),
    (counting, 3),
    (calendar, 7),
    (letter, 3),
    (animal, 8),
    (definition, 4),
    (kind_of, 2),
    (three_of_a_kind, 1),
    (shape, 1),
    (unknown, 9),
    (unknown_word, 1),
)
"""How often each is asked, in relation to the others."""
