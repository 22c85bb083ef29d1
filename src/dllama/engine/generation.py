"""One request's text as it is written: draws tokens and turns them into events."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from dllama.engine.constraint import Following
from dllama.engine.penalties import Penalties, RowEdits
from dllama.engine.request import GenerationOptions, TextDelta, TokenInfo
from dllama.engine.sampler import Sampler
from dllama.engine.speculation import Speculator
from dllama.engine.stopping import StopStrings
from dllama.model import Candidates
from dllama.tokenizer import StreamDecoder, Tokenizer

WholeLogits: TypeAlias = Callable[[], NDArray[np.float32]]


class Generation:
    """What was drawn so far, and everything that the next draw depends on but the logits.

    The draws depend on nothing else: not on what shares a step, nor on draft tokens, nor on how often the text was
    computed.
    """

    def __init__(
        self,
        prompt_ids: Sequence[int],
        options: GenerationOptions,
        tokenizer: Tokenizer,
        n_tokens: int,
        n_drafted: int,
    ) -> None:
        """`n_tokens` are drawn at the most, with up to `n_drafted` draft tokens for each step."""
        self._options, self._tokenizer, self._n_tokens = options, tokenizer, n_tokens
        ends = () if options.ignore_eos else (*tokenizer.eos_ids, *options.end_ids)
        self._end_ids = options.stop_ids.union(ends)
        self._sampler = Sampler(options.sampling)
        self._penalties = Penalties.of(options.sampling, prompt_ids)
        self._decoder = StreamDecoder(tokenizer, continues=options.continues, shown=options.shown)
        self._stop = StopStrings(options.stop)
        is_drafting = n_drafted > 0 and options.constraint is None  # a grammar cannot be asked ahead
        self._speculator = Speculator(prompt_ids, n_drafted) if is_drafting else None
        self._following = options.constraint.start() if options.constraint else None
        self.tells_progress = options.progress
        self.n_drawn = 0
        self.end_id: int | None = None
        self.reason: Literal["stop", "length"] | None = None if n_tokens else "length"

    @property
    def temperature(self) -> float:
        return self._sampler.temperature

    @property
    def n_candidates(self) -> int:
        return max(self._sampler.n_candidates, self._options.n_logprobs or 0)

    def edits(self, draft_ids: Sequence[int]) -> Sequence[RowEdits | None]:
        """For the next token and for those after each draft token; None where logits stay as they are."""
        return self._penalties.edits(draft_ids) if self._penalties else [None] * (1 + len(draft_ids))

    @property
    def is_constrained(self) -> bool:
        return self._following is not None

    @property
    def waits_for(self) -> Future[Following] | None:
        """What the grammar has not said yet of the token drawn last; nothing can be drawn before (see `settle`)."""
        return None if self._following is None or self._following.done() else self._following

    def settle(self) -> TextDelta:
        """Takes in what the grammar says of the token drawn last, once it is there; what may be shown if that ends
        the text.

        Raises UsageError when the grammar cannot be followed any further.
        """
        if self._following is None or self.reason or not self._following.done():
            return TextDelta("", ())
        is_end = self._following.result().is_end and self.n_drawn > 0
        self.reason = "stop" if is_end else "length" if self.n_drawn == self._n_tokens else None
        return TextDelta(self._rest(), ())

    def close(self) -> None:
        """Tells the grammar that nobody waits for it any more. Nothing is drawn afterwards."""
        if self._following is not None:
            self._following.cancel()
            self._following = None  # its error, if that is what it has, holds frames

    def mask(self) -> NDArray[np.uint8] | None:
        """See Following.allowed."""
        return None if self._following is None else self._following.result().allowed

    def draft(self, n_used: int, n_most: int, step_s: Callable[[int], float]) -> tuple[int, ...]:
        """See Speculator.draft; never more than may still be drawn."""
        if self._speculator is None:
            return ()
        return self._speculator.draft(n_used, min(n_most, self._n_tokens - self.n_drawn - 1), step_s)

    def draw(
        self, candidates: Candidates, row: int, draft_ids: Sequence[int], whole_logits: WholeLogits
    ) -> list[TokenInfo]:
        """The tokens drawn from `row` and, as long as draft tokens are right, the rows after it; changes nothing.

        So a step whose logits did not arrive is drawn again as if for the first time. Raises NumericalError when
        logits are not numbers, and what `whole_logits` raises.
        """
        drawn: list[TokenInfo] = []
        for draft in (*draft_ids, None):
            index = self.n_drawn + len(drawn)
            token_id = self._sampler.sample(index, candidates, row + len(drawn), whole_logits)
            drawn.append(self._info(token_id, candidates, row + len(drawn), whole_logits))
            if token_id in self._end_ids or token_id != draft:
                break
        return drawn

    def accept(self, drawn: Sequence[TokenInfo]) -> tuple[int, TextDelta]:
        """Goes on with the text by what was drawn, up to its end; returns how many tokens that took.

        `reason` is set when the text ends with them.
        """
        n_before = self.n_drawn
        infos: list[TokenInfo] = []
        text = ""
        for info in drawn:
            self.n_drawn += 1
            if info.token_id in self._end_ids:
                self.end_id, self.reason = info.token_id, "stop"
                break
            infos.append(info)
            text += self._accept(info.token_id)
            if self.reason:
                break
        return self.n_drawn - n_before, TextDelta(text + self._rest(), tuple(infos))

    def _accept(self, token_id: int) -> str:
        """Takes a token into the text; returns what may be shown."""
        if self._penalties:
            self._penalties.count(token_id)
        if self._speculator:
            self._speculator.add(token_id)
        text = self._stop.feed(self._decoder.feed(token_id), self._hidden(token_id))
        if self._stop.is_stopped:
            self.reason = "stop"
        elif self._options.constraint:  # which tells whether the text is complete
            self._following = self._options.constraint.advance(token_id)
        elif self.n_drawn == self._n_tokens:
            self.reason = "length"
        return text

    def _hidden(self, token_id: int) -> str:
        """The name of a special token that is not shown: stop strings may name it."""
        is_hidden = self._tokenizer.is_special(token_id) and token_id not in self._options.shown
        return self._tokenizer.token_bytes(token_id).decode("utf-8", "replace") if is_hidden else ""

    def _rest(self) -> str:
        """What was held back, if the text has ended."""
        if not self.reason or self._stop.is_stopped:
            return ""
        return self._stop.feed(self._decoder.flush()) + self._stop.flush()

    def _info(self, token_id: int, candidates: Candidates, row: int, whole_logits: WholeLogits) -> TokenInfo:
        token_bytes = self._tokenizer.token_bytes
        n = self._options.n_logprobs
        if n is None:
            return TokenInfo(token_id, token_bytes(token_id), float("nan"), ())
        ids, logits = candidates.ids[row], candidates.logits[row].astype(np.float64)
        logprobs = logits - candidates.log_sum_exp[row]
        places = np.flatnonzero(ids == token_id)
        if len(places):
            logprob = float(logprobs[places[0]])
        else:
            logprob = float(whole_logits()[row, token_id] - candidates.log_sum_exp[row])
        top = zip(ids[:n].tolist(), logprobs[:n].tolist(), strict=True)
        return TokenInfo(
            token_id, token_bytes(token_id), logprob, tuple((i, token_bytes(i), p) for i, p in top)
        )
