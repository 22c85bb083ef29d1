"""How good a stored demo model is, in numbers: right answers, and stories that keep to their cast."""

from __future__ import annotations

import argparse
import collections
import random
import re

import torch

from demo_model import questions
from demo_model.samples import Writer
from demo_model.stories import ANIMALS, NAMES, with_article

N_QUESTIONS = 40
"""Questions on each topic."""
N_STORIES = 16
ASKED = (
    *(
        questions.colour,
        questions.mixed_colour,
        questions.opposite,
        questions.arithmetic,
        questions.word_problem,
    ),
    *(
        questions.neighbour_number,
        questions.bigger_number,
        questions.counting,
        questions.calendar,
        questions.letter,
    ),
    *(questions.animal, questions.definition, questions.kind_of, questions.shape, questions.large_arithmetic),
)
"""The topics with one right answer to each question."""


def print_scores(options: argparse.Namespace) -> None:
    torch.manual_seed(options.seed)
    torch.set_num_threads(1)
    rng = random.Random(options.seed)
    writer = Writer(options.directory, quantised=not options.exact, temperature=options.temperature)
    n_right = 0
    for ask in ASKED:
        right = sum(answers_right(writer, *ask(rng)) for _ in range(N_QUESTIONS))
        n_right += right
        print(f"{ask.__name__}: {right} of {N_QUESTIONS}", flush=True)
    print(f"all questions: {n_right} of {N_QUESTIONS * len(ASKED)}")
    asked = [rng.choice(ANIMALS) for _ in range(N_STORIES)]
    texts = write_all(writer, [f"Tell me a story about {with_article(kind)}." for kind in asked])
    found = collections.Counter[str]()
    for kind, text in zip(asked, texts, strict=True):
        named = {word for word in re.findall(r"[A-Z][a-z]+", text) if word in NAMES}
        found["about the animal asked for"] += re.search(rf"\b{kind}\b", text) is not None
        found["with two names from beginning to end"] += len(named) == 2
    for what, n in found.items():
        print(f"stories {what}: {n} of {N_STORIES}")


@torch.no_grad()
def answers_right(writer: Writer, question: str, answer: str) -> bool:
    """Whether greedy decoding gives exactly this answer and then ends its turn."""
    asked = writer.prompt([{"role": "user", "content": question}])
    wanted = [*writer.tokenizer.encode(answer, add_special_tokens=False).ids, writer.end_ids[-1]]
    logits = writer.network(torch.tensor([asked + wanted]))[0]
    greedy: list[int] = logits[len(asked) - 1 : -1].argmax(dim=-1).tolist()
    return greedy == wanted


@torch.no_grad()
def write_all(writer: Writer, requests: list[str], n_most: int = 220) -> list[str]:
    """One answer to each request, side by side. What stands behind a row's end is never looked at."""
    rows = [writer.prompt([{"role": "user", "content": request}]) for request in requests]
    starts = [len(row) for row in rows]
    done = [False] * len(rows)
    for _ in range(n_most):
        longest = max(map(len, rows))
        padded = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
        last = torch.tensor([[position == len(row) - 1 for position in range(longest)] for row in rows])
        chances = torch.softmax(writer.network(padded, wanted=last) / writer.temperature, dim=-1)
        for index, token in enumerate(torch.multinomial(chances, 1)[:, 0].tolist()):
            done[index] = done[index] or token in writer.end_ids
            if not done[index]:
                rows[index].append(token)
        if all(done):
            break
    return [writer.tokenizer.decode(row[start:]) for row, start in zip(rows, starts, strict=True)]
