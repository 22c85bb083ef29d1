"""What is asked of the engine, and the events that answer."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Literal, TypeAlias

from dllama.engine.constraint import TokenConstraint
from dllama.engine.sampler import SamplingOptions
from dllama.errors import DllamaError, UsageError


@dataclasses.dataclass(frozen=True, kw_only=True)
class GenerationOptions:
    """How one text is to be continued.

    max_tokens   None: until the context is full
    stop         strings that end the text; none of them is ever shown. Special tokens match by their names
    stop_ids     tokens that end the text, also with ignore_eos
    end_ids      end tokens beside those that the tokenizer knows: what the chat template writes after an answer
    ignore_eos   end tokens are tokens like any other
    n_logprobs   None: no log-probabilities; k: those of the drawn token and of the k most likely ones
    constraint   a grammar of this request's own
    speculate    most draft tokens for each step; None: what the engine was started with
    shown        special tokens whose names belong to the text
    continues    the text goes on after text of the prompt, so that a leading space is its own (see StreamDecoder)
    progress     PromptProgress is told as well
    """

    sampling: SamplingOptions = dataclasses.field(default_factory=SamplingOptions)
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    stop_ids: frozenset[int] = frozenset()
    end_ids: frozenset[int] = frozenset()
    ignore_eos: bool = False
    n_logprobs: int | None = None
    constraint: TokenConstraint | None = None
    speculate: int | None = None
    shown: frozenset[int] = frozenset()
    continues: bool = False
    progress: bool = False

    def __post_init__(self) -> None:
        for name in ("max_tokens", "n_logprobs", "speculate"):
            value = getattr(self, name)
            if value is not None and value < 0:
                raise UsageError(f"{name} takes a number from 0 up, not {value}")
        if not all(self.stop):
            raise UsageError("stop takes strings that are not empty")


@dataclasses.dataclass(frozen=True)
class TokenInfo:
    """A token of the text. `logprob` is NaN and `top` empty where no log-probabilities were asked for.

    top   (token id, its bytes, its log-probability) of the most likely tokens, most likely first
    """

    token_id: int
    text_bytes: bytes
    logprob: float
    top: tuple[tuple[int, bytes, float], ...]


@dataclasses.dataclass(frozen=True)
class PromptProgress:
    """After a step that did not reach the end of the prompt: `n_done` of its `n_total` tokens are in the KV cache.

    Also of a text that had to make room for others and is computed again; `n_total` then counts its own tokens too.
    """

    n_done: int
    n_total: int


@dataclasses.dataclass(frozen=True)
class TextDelta:
    """What one step added: its tokens, and the text that is now safe to show.

    Text holds whole characters and nothing of a stop string; what might still become one waits for a later
    delta, so that `text` may be empty. The end token is not among the tokens.
    """

    text: str
    tokens: tuple[TokenInfo, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Finished:
    """The last event: the model or a stop string ended the text, or there was no room for more ("length").

    n_prompt      tokens of the prompt, of which `n_cached` did not have to be computed
    n_completion  tokens drawn, the end token among them
    end_id        the end token, where one was drawn
    """

    reason: Literal["stop", "length"]
    n_prompt: int
    n_cached: int
    n_completion: int
    end_id: int | None = None


@dataclasses.dataclass(frozen=True)
class Failed:
    """The last event where the text could not be completed."""

    error: DllamaError


Event: TypeAlias = PromptProgress | TextDelta | Finished | Failed
"""The events of one request: any number of TextDelta (and of PromptProgress, where asked for), then Finished or
Failed; nothing more once it is cancelled."""

OnEvent: TypeAlias = Callable[[Event], None]
