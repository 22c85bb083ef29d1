"""Conversations from a grammar: the chat half of the text that the demo model is trained on.

Questions with answers, stories on demand, and turns that go back to what was said before. A conversation is
a list of messages as chat templates take them: `{"role": ..., "content": ...}`.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from demo_model.facts import SYSTEM_PROMPTS, UNKNOWN_WORDS
from demo_model.questions import QUESTIONS, Turn, fill
from demo_model.stories import ANIMALS, COLOURS, NAMES, PLOTS, Character, Story, expand, tell, with_article

Message = dict[str, str]

HEROES = (*ANIMALS, "girl", "boy")
OWN_NAMES = (*NAMES, "Pip", "Robo", "Dot", "Kim")
"""What a system prompt may call the model."""


class Conversation:
    """What has been said so far, and what later turns may ask back."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.messages: list[Message] = []
        self.own_name: str | None = None
        self.user_name: str | None = None
        self.user_colour: str | None = None
        self.story: Story | None = None
        self.story_offered = False

    def open(self) -> None:
        """Begins with a system prompt in two of five conversations; some give the model a name."""
        draw = self.rng.random()
        if draw >= 0.4:
            return
        if draw < 0.08:
            self.own_name = self.rng.choice(OWN_NAMES)
            template = "[Your name is|You are called|You are] {name}.[ You are a helpful assistant.|]"
            prompt = expand(template, {"name": self.own_name}, self.rng)
        else:
            prompt = expand(
                self.rng.choice(SYSTEM_PROMPTS), {"word": self.rng.choice(UNKNOWN_WORDS)}, self.rng
            )
        self.messages.append({"role": "system", "content": prompt})

    def say(self, turn: Turn) -> None:
        question, answer = turn
        self.messages.append({"role": "user", "content": _as_people_type(question, self.rng)})
        self.messages.append({"role": "assistant", "content": answer})
        self.story_offered = answer.endswith(("hear a story?", "Would a story help?"))


def converse(rng: random.Random, n_turns: int) -> list[Message]:
    """A conversation of that many turns."""
    talk = Conversation(rng)
    talk.open()
    topics, weights = zip(*TOPICS, strict=True)
    for _ in range(n_turns):
        if talk.story_offered and rng.random() < 0.5:
            talk.say(_reply_to_offer(talk))
            continue
        asks_back = _asks_back(talk)
        if asks_back and rng.random() < 0.45:
            talk.say(rng.choice(asks_back)(talk))
        else:
            talk.say(rng.choices(topics, weights)[0](talk))
    return talk.messages


def _as_people_type(question: str, rng: random.Random) -> str:
    """Now and then with a please, in lower case, or without the last mark."""
    if rng.random() < 0.1 and question[-1] == "?":
        question = f"{question[:-1]}, please?"
    if rng.random() < 0.2:
        question = question[0].lower() + question[1:]
    if rng.random() < 0.1:
        question = question.lower()
    if rng.random() < 0.2:
        question = question.rstrip("?.! ") or question
    return question


def _question(talk: Conversation) -> Turn:
    questions, weights = zip(*QUESTIONS, strict=True)
    turn: Turn = talk.rng.choices(questions, weights)[0](talk.rng)
    return turn


def _story(talk: Conversation) -> Turn:
    """A story, three times of four with a hero, two heroes, or a topic that the user wishes for."""
    rng = talk.rng
    draw = rng.random()
    if draw < 0.45:
        hero = Character.draw(rng, rng.choice(HEROES))
        talk.story = tell(rng, hero=hero)
        about = f" about {_described(hero, rng)}"
    elif draw < 0.65:
        kinds = rng.sample(HEROES, 2)
        hero, friend = Character.draw(rng, kinds[0]), Character.draw(rng, kinds[1])
        while friend.name == hero.name:
            friend = Character.draw(rng, kinds[1])
        talk.story = tell(rng, hero=hero, friend=friend)
        about = f" about {_described(hero, rng)} and {with_article(friend.kind)}"
    elif draw < 0.85:
        talk.story = tell(rng, topic=rng.choice(list(PLOTS)))
        about = f" about {talk.story.topic}"
    else:
        talk.story, about = tell(rng), ""
    ask = "[Tell me|Tell me|Please tell me|Can you tell me|Write|Write me|I want to hear|Make up]"
    return fill(rng, f"{ask} [a|a|a short|a little|another] story{about}[.|.|!|?]", talk.story.text)


def _reply_to_offer(talk: Conversation) -> Turn:
    if talk.rng.random() < 0.25:
        return fill(
            talk.rng, "[No|No, thanks|No, thank you|Not now].", "All right. What else can I do for you?"
        )
    talk.story = tell(talk.rng)
    return fill(
        talk.rng, "[Yes|Yes, please|Yes please|Sure|Ok|Of course|I would like that].", talk.story.text
    )


def _described(character: Character, rng: random.Random) -> str:
    """`a fox`, sometimes `a little fox` or `a fox named Mia`."""
    if rng.random() < 0.2:
        return f"a little {character.kind}"
    name = f" {rng.choice(('named', 'called'))} {character.name}" if rng.random() < 0.4 else ""
    return with_article(character.kind) + name


def _ask_about_story(talk: Conversation) -> Turn:
    assert talk.story is not None
    hero, friend = talk.story.hero, talk.story.friend
    both = f"The story was about {hero.name} the {hero.kind} and {friend.name} the {friend.kind}."
    questions = (
        (f"What was the name of the {hero.kind}?", f"The {hero.kind} was called {hero.name}."),
        (
            f"What was the [{hero.kind}'s name|{hero.kind} called]?",
            f"The {hero.kind} was called {hero.name}.",
        ),
        (f"Who was {friend.name}?", f"{friend.name} was the {friend.kind} in the story."),
        (f"Who was {hero.name}?", f"{hero.name} was the {hero.kind} in the story."),
        ("[Who was in the story|What was the story about|Who was the story about]?", both),
        (f"What was {hero.name}?", f"{hero.name} was {with_article(hero.kind)}."),
        (f"What [was|animal was] {friend.name}?", f"{friend.name} was {with_article(friend.kind)}."),
    )
    return fill(talk.rng, *talk.rng.choice(questions))


def _introduce(talk: Conversation) -> Turn:
    talk.user_name = talk.rng.choice(NAMES)
    question = f"[Hi, my name is|Hello, my name is|My name is|I am|I'm|Hi! I am] {talk.user_name}."
    answer = f"[Nice to meet you|Hello], {talk.user_name}! [How can I help you|What can I do for you]?"
    return fill(talk.rng, question, answer)


def _recall_name(talk: Conversation) -> Turn:
    question = "[What is my name|What's my name|Who am I|Do you know my name]?"
    return fill(talk.rng, question, f"Your name is {talk.user_name}.")


def _like_colour(talk: Conversation) -> Turn:
    talk.user_colour = colour = talk.rng.choice(COLOURS)
    question = f"[My favourite colour is|My favorite color is|I like the colour|I like] {colour}."
    answer = f"[{colour.capitalize()} is a beautiful colour.|I like {colour} too.]"
    return fill(talk.rng, question, answer)


def _recall_colour(talk: Conversation) -> Turn:
    question = "[What is my favourite colour|What is my favorite color|Which colour do I like]?"
    return fill(talk.rng, question, f"Your favourite colour is {talk.user_colour}.")


def _who_are_you(talk: Conversation) -> Turn:
    question = "[Who are you|What is your name|What's your name|What are you called|Who am I talking to]?"
    if talk.own_name is not None:
        return fill(talk.rng, question, f"My name is {talk.own_name}.")
    return fill(talk.rng, question, "I am the demo model of dllama. I am very small, but I can tell stories.")


def _unknown_to_me(talk: Conversation) -> Turn:
    """The user's name before the user has told it."""
    if talk.user_name is not None:
        return _recall_name(talk)
    question = "[What is my name|What's my name|Do you know my name]?"
    return fill(talk.rng, question, "I do not know. What is your name?")


def _asks_back(talk: Conversation) -> list[Callable[[Conversation], Turn]]:
    """The questions that go back to something said before."""
    known = (
        (talk.user_name, _recall_name),
        (talk.user_colour, _recall_colour),
        (talk.own_name, _who_are_you),
        (talk.story, _ask_about_story),
        (talk.story, _ask_about_story),
    )
    return [ask for fact, ask in known if fact is not None]


TOPICS: tuple[tuple[Callable[[Conversation], Turn], float], ...] = (
    (_question, 70),
    (_story, 15),
    (_introduce, 3.5),
    (_like_colour, 2),
    (_who_are_you, 3),
    (_unknown_to_me, 0.7),
)
"""What a turn may be about, and how often."""
