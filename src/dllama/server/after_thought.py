"""A grammar that holds for the answer and leaves free what the model thinks before it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import Future

import numpy as np
from numpy.typing import NDArray

from dllama.answers.reasoning_formats import ReasoningFormat, Stage
from dllama.engine import Following, TokenConstraint
from dllama.server.prompt import ChatPrompt
from dllama.server.served import ServedModel
from dllama.tokenizer import Tokenizer


def after_thought(
    answer: TokenConstraint | None, prompt: ChatPrompt, served: ServedModel
) -> TokenConstraint | None:
    """`answer`, for the answer alone where the model may think before it."""
    if answer is None or prompt.reasoning is None or prompt.stage is Stage.ANSWERS:
        return answer
    return AfterThought(
        answer,
        prompt.reasoning,
        prompt.stage,
        served.tokenizer,
        vocab_size=served.grammars.vocab_size,
        end_ids=served.grammars.end_ids,
    )


class AfterThought:
    """See engine.TokenConstraint. While the model thinks it may write anything but an end of the text."""

    def __init__(
        self,
        answer: TokenConstraint,
        reasoning: ReasoningFormat,
        stage: Stage,
        tokenizer: Tokenizer,
        *,
        vocab_size: int,
        end_ids: Iterable[int],
    ) -> None:
        """`answer` begins after the thought. `vocab_size` is that of the logits."""
        self._answer = answer
        self._stage = stage
        opener_id = reasoning.token_ids(tokenizer).get(reasoning.opener)
        self._opener_id = opener_id if opener_id is not None and opener_id < vocab_size else None
        self._closer = reasoning.closer.encode()
        self._token_bytes = tokenizer.token_bytes
        self._tail = b""
        self._vocab_size = vocab_size
        self._thinking = _done(Following(_bits(vocab_size, without=end_ids)))

    def start(self) -> Future[Following]:
        if self._stage is Stage.THINKS:
            return self._thinking
        if self._stage is Stage.ANSWERS or self._opener_id is None:
            return self._answer.start()
        return _then(self._answer.start(), self._or_opener)

    def advance(self, token_id: int) -> Future[Following]:
        if self._stage is Stage.MAY_THINK:
            self._stage = Stage.THINKS if token_id == self._opener_id else Stage.ANSWERS
            return self._thinking if self._stage is Stage.THINKS else self._answer.advance(token_id)
        if self._stage is Stage.ANSWERS:
            return self._answer.advance(token_id)
        self._tail = (self._tail + self._token_bytes(token_id))[-2 * len(self._closer) - 64 :]
        if self._closer not in self._tail:
            return self._thinking
        self._stage = Stage.ANSWERS
        return self._answer.start()

    def _or_opener(self, following: Following) -> Following:
        if following.allowed is None or self._opener_id is None:
            return following
        allowed = following.allowed.copy()
        allowed[self._opener_id // 8] |= np.uint8(1 << self._opener_id % 8)
        return Following(allowed, following.is_end)


def _bits(vocab_size: int, without: Iterable[int]) -> NDArray[np.uint8]:
    """Bits as in LogitMasks, of all tokens but some."""
    allowed = np.ones(vocab_size, np.bool_)
    allowed[[token_id for token_id in without if token_id < vocab_size]] = False
    return np.packbits(allowed, bitorder="little")


def _done(following: Following) -> Future[Following]:
    future: Future[Following] = Future()
    future.set_result(following)
    return future


def _then(first: Future[Following], change: Callable[[Following], Following]) -> Future[Following]:
    """What `change` makes of the result of `first`; its error, where it has one."""
    changed: Future[Following] = Future()

    def pass_on(settled: Future[Following]) -> None:
        if settled.cancelled():
            changed.cancel()
        elif changed.set_running_or_notify_cancel():
            error = settled.exception()
            if error is None:
                changed.set_result(change(settled.result()))
            else:
                changed.set_exception(error)

    first.add_done_callback(pass_on)
    return changed
