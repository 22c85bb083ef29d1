"""What is under way in the engine: a request of the scheduler, and what becomes of its rows."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from dllama.engine.generation import Generation
from dllama.engine.prompt_score import PromptScore
from dllama.engine.request import Failed, OnEvent, TokenInfo
from dllama.engine.scheduler import ScheduledRequest
from dllama.errors import DllamaError

OnEmbedding: TypeAlias = Callable[[NDArray[np.float32] | DllamaError], None]
OnScore: TypeAlias = Callable[[list[TokenInfo] | DllamaError], None]


@dataclasses.dataclass(eq=False)
class Writing:
    """A request for text; `is_late`: it has to wait for its grammar."""

    request: ScheduledRequest
    generation: Generation
    on_event: OnEvent
    is_late: bool = False

    def close(self) -> None:
        self.generation.close()

    def fail(self, error: DllamaError) -> None:
        self.on_event(Failed(error))


@dataclasses.dataclass(eq=False)
class Embedding:
    """A request for the mean of hidden states; `total` [D] is their sum as far as the text is computed."""

    request: ScheduledRequest
    total: NDArray[np.float64]
    on_done: OnEmbedding

    def close(self) -> None:
        pass

    def fail(self, error: DllamaError) -> None:
        self.on_done(error)


@dataclasses.dataclass(eq=False)
class Scoring:
    """A request for the log-probabilities of a prompt."""

    request: ScheduledRequest
    score: PromptScore
    on_done: OnScore

    def close(self) -> None:
        pass

    def fail(self, error: DllamaError) -> None:
        self.on_done(error)


Task: TypeAlias = Writing | Embedding | Scoring
