"""Requests to an engine on an executor that computes nothing, and what they got."""

from __future__ import annotations

import zlib

import numpy as np
from numpy.typing import NDArray

from dllama.engine import (
    Engine,
    Event,
    Failed,
    Finished,
    GenerationOptions,
    SamplingOptions,
    TextDelta,
    TokenInfo,
)
from dllama.errors import PeerLostError
from dllama.tokenizer import Tokenizer, load_tokenizer
from support.fake_executor import FakeExecutor
from support.processes import DEMO_MODEL

TOKENIZER: Tokenizer = load_tokenizer(DEMO_MODEL)
VOCAB = TOKENIZER.vocab_size
END = TOKENIZER.eos_ids[0]
GREEDY = SamplingOptions(temperature=0)


def checksum(text: list[int]) -> int:
    """Depends on every token and its place, and on nothing else."""
    assert -1 not in text, text
    return sum(place * token for place, token in enumerate(text, start=1)) % 251


def few_words(text: list[int]) -> NDArray[np.float32]:
    """Logits that depend on every token; a few tokens are far more likely than the rest, so that texts repeat."""
    assert -1 not in text, text
    random = np.random.default_rng(zlib.crc32(np.asarray(text, np.int32).tobytes()))
    logits = random.normal(0, 1, VOCAB).astype(np.float32)
    logits[300:306] += random.normal(9, 2, 6).astype(np.float32)
    logits[END] = random.normal(6, 2)
    return logits


def echo(text: list[int]) -> int:
    """The text goes round in a circle of five."""
    return text[-5] if len(text) > 5 else 500 + len(text)


class Talk:
    """What one request got."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    @property
    def tokens(self) -> list[TokenInfo]:
        return [token for event in self.events if isinstance(event, TextDelta) for token in event.tokens]

    @property
    def token_ids(self) -> list[int]:
        return [token.token_id for token in self.tokens]

    @property
    def text(self) -> str:
        return "".join(event.text for event in self.events if isinstance(event, TextDelta))

    @property
    def end(self) -> Finished:
        end = self.events[-1]
        assert isinstance(end, Finished), end
        assert not any(isinstance(event, Finished | Failed) for event in self.events[:-1])
        return end


Asked = tuple[list[int], GenerationOptions]


def answers(engine: Engine, asked: list[Asked]) -> list[Talk]:
    """All requests at once, to their ends."""
    talks = []
    for prompt, options in asked:
        engine.check(prompt, options)
        talks.append(Talk())
        engine.submit(prompt, options, talks[-1].events.append)
    while engine.has_work:
        assert engine.step() is not None
    return talks


def answer(
    prompt: list[int], options: GenerationOptions, executor: FakeExecutor | None = None, **more: int
) -> Talk:
    executor = executor or FakeExecutor(checksum, vocab_size=VOCAB)
    return answers(Engine(executor, TOKENIZER, **{"max_seq_len": 32, **more}), [(prompt, options)])[0]


def greedy(**options: object) -> GenerationOptions:
    return GenerationOptions(sampling=GREEDY, **options)  # type: ignore[arg-type]


class Clock:
    """Every step takes a second, however many rows it has."""

    def __init__(self) -> None:
        self._s = 0.0

    def __call__(self) -> float:
        self._s += 1.0
        return self._s


class Flaky(FakeExecutor):
    """Hidden states tell tokens and places apart. `n_losses` times nothing can be fetched after a step."""

    def __init__(self, n_losses: int = 0, **shape: int) -> None:
        super().__init__(flat, vocab_size=VOCAB, **shape)
        self.n_losses = n_losses

    def whole_logits(self) -> NDArray[np.float32]:
        self._lose()
        return super().whole_logits()

    def hidden(self) -> NDArray[np.float32]:
        self._lose()
        batch, hidden = self.steps[-1], np.zeros((self.steps[-1].n_rows, self.config.dim), np.float32)
        hidden[np.arange(batch.n_rows), batch.token_ids % self.config.dim] = 1 + batch.positions
        return hidden

    def _lose(self) -> None:
        if self.n_losses:
            self.n_losses -= 1
            raise PeerLostError("a worker was lost")


def flat(text: list[int]) -> NDArray[np.float32]:
    """Logits that depend on every token and are so alike that a draw often needs more than the candidates."""
    assert -1 not in text, text
    random = np.random.default_rng(zlib.crc32(np.asarray(text, np.int32).tobytes()))
    logits = random.normal(0, 0.1, VOCAB).astype(np.float32)
    logits[text[-5] if len(text) > 5 else 300] += 7
    return logits
