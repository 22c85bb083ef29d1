"""Requests become steps, and steps become events: continuous batching over an Executor, in one thread."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import functools
import logging
import time
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from dllama.engine.batch import TokenChunk, ragged_batch
from dllama.engine.executor import Executor
from dllama.engine.generation import Generation
from dllama.engine.pace import StepPace
from dllama.engine.penalties import RowEdits, joined_edits
from dllama.engine.prefix_cache import PrefixCache
from dllama.engine.prompt_score import PromptScore
from dllama.engine.request import (
    Finished,
    GenerationOptions,
    OnEvent,
    PromptProgress,
    TokenInfo,
)
from dllama.engine.scheduler import Chunk, ScheduledRequest, Scheduler
from dllama.engine.stats import EngineStats, Totals
from dllama.engine.tasks import Embedding, OnEmbedding, OnScore, Scoring, Task, Writing
from dllama.errors import DllamaError, Failure, PeerError, UsageError, context_full
from dllama.model import MOST_CANDIDATES, Candidates, LogitMasks, LogitRows
from dllama.tokenizer import Tokenizer

_log = logging.getLogger(__name__)

_GRACE_S = 0.001
"""A step waits so long for the grammars of tokens that were just drawn; most are ready by then, and a text that misses
a step is slower by half."""


@dataclasses.dataclass(frozen=True)
class StepDone:
    """One step: rows of prompts, rows of texts that are being written, draft tokens among these."""

    n_prompt_rows: int
    n_decode_rows: int
    n_drafted: int


class Engine:
    """Everything but the thread: whoever calls `step` runs the model.

    Events come out of `step`. Not to be used by two threads at the same time.
    """

    def __init__(
        self,
        executor: Executor,
        tokenizer: Tokenizer,
        *,
        max_seq_len: int,
        n_parallel: int = 1,
        speculate: int = 0,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """`n_parallel` requests share steps; `speculate` is the most draft tokens for a step of a request that
        does not say."""
        cache = executor.cache
        for group in cache.groups:
            assert group.most_pages(max_seq_len, 1, cache.page_size) <= group.n_pages, "one text must fit"
        self.max_seq_len = max_seq_len
        self._executor, self._tokenizer, self._clock = executor, tokenizer, clock
        self._speculate = speculate
        self._pages = PrefixCache(cache, has_states=executor.config.has_states)
        self._pace = StepPace(executor.max_rows)
        self._scheduler = Scheduler(
            self._pages,
            self._pace,
            n_parallel=n_parallel,
            max_rows=executor.max_rows,
            max_logit_rows=executor.max_logit_rows,
        )
        self._tasks: dict[ScheduledRequest, Task] = {}
        self._unsettled: list[Writing] = []  # their grammars have more to say, see `_settle`
        self._n_arrived = 0
        self._totals = Totals()

    @property
    def has_work(self) -> bool:
        return bool(self._tasks)

    def check(self, prompt_ids: Sequence[int], options: GenerationOptions | None) -> None:
        """Raises ContextFullError or UsageError for what cannot be carried out. Any thread may ask."""
        vocab_size = self._executor.config.vocab_size
        if not prompt_ids:
            raise UsageError("the prompt is empty: at least one token is needed")
        if not 0 <= min(prompt_ids) <= max(prompt_ids) < vocab_size:
            raise UsageError(f"the prompt has token ids that are not among the model's {vocab_size}")
        n_room = self.max_seq_len - (1 if options and options.max_tokens != 0 else 0)
        if len(prompt_ids) > n_room:
            raise context_full("the prompt", len(prompt_ids), self.max_seq_len)
        for token_id in options.sampling.logit_bias if options else ():
            if not 0 <= token_id < vocab_size:
                raise UsageError(f"logit_bias names token {token_id}; the model has {vocab_size}")

    def submit(
        self, prompt_ids: Sequence[int], options: GenerationOptions, on_event: OnEvent
    ) -> ScheduledRequest:
        """Takes a request that `check` has nothing against; `on_event` gets its events within later steps.

        What `on_event` raises ends this request and no other.
        """
        n_room = self.max_seq_len - len(prompt_ids)
        generation = Generation(
            prompt_ids,
            options,
            self._tokenizer,
            n_room if options.max_tokens is None else min(options.max_tokens, n_room),
            self._speculate if options.speculate is None else options.speculate,
        )
        request = self._schedule(prompt_ids)
        task = self._tasks[request] = Writing(request, generation, on_event)
        if generation.is_constrained:
            self._unsettled.append(task)
        self._scheduler.add(request)
        return request

    def embed(self, prompt_ids: Sequence[int], on_done: OnEmbedding) -> ScheduledRequest:
        """`on_done` gets the mean of the final-normed hidden states of all tokens, [D] of length 1, or the error."""
        request = self._schedule(prompt_ids, is_whole=True)
        self._tasks[request] = Embedding(request, np.zeros(self._executor.config.dim, np.float64), on_done)
        self._scheduler.add(request)
        return request

    def score(self, prompt_ids: Sequence[int], n_top: int, on_done: OnScore) -> ScheduledRequest:
        """`on_done` gets what PromptScore has of all tokens but the first, or the error. There must be two at least."""
        request = self._schedule(prompt_ids[:-1], is_whole=True, is_scored=True)
        self._tasks[request] = Scoring(request, PromptScore(prompt_ids, n_top, self._tokenizer), on_done)
        self._scheduler.add(request)
        return request

    def cancel(self, request: ScheduledRequest) -> None:
        """Frees what the request holds; it gets no more events. Nothing happens when it has ended."""
        task = self._tasks.pop(request, None)
        if task is not None:
            self._scheduler.remove(request)
            task.close()

    def fail_all(self, failure: Failure[DllamaError]) -> None:
        """Ends every request with this error."""
        for task in list(self._tasks.values()):
            self._fail(task, failure.error())

    def step(self, on_ready: Callable[[], None] = lambda: None) -> StepDone | None:
        """Computes one step and delivers its events; None when there is nothing to do, or nothing before a grammar is
        ready. `on_ready` is called, from any thread, when a text that had to wait for its grammar can go on.

        Raises what Executor.step raises; requests are then as they were.
        """
        self._settle(on_ready)
        chunks = self._scheduler.next_step(self._draft, self._is_waiting)
        if not chunks:
            return None
        done = StepDone(
            n_prompt_rows=sum(chunk.n_rows for chunk in chunks if chunk.request.is_prefilling),
            n_decode_rows=sum(chunk.n_rows for chunk in chunks if not chunk.request.is_prefilling),
            n_drafted=sum(len(chunk.draft_ids) for chunk in chunks),
        )
        batch = ragged_batch(
            [_token_chunk(chunk) for chunk in chunks], lambda rows: self._wanted(chunks, rows)
        )
        start = self._clock()
        for chunk in chunks:
            chunk.request.text.is_ahead = True
        candidates = self._executor.step(batch)
        self._pace.observe(done.n_decode_rows + done.n_drafted, done.n_prompt_rows, self._clock() - start)
        self._totals.n_steps += 1
        self._deliver(chunks, candidates)
        return done

    def stats(self) -> EngineStats:
        """As of now. Any thread may ask; between two steps the numbers belong together."""
        pools = self._pages.pools
        return EngineStats(
            n_running=len(self._scheduler.running),
            n_queued=len(self._scheduler.waiting),
            n_pages_used=sum(pool.n_used for pool in pools),
            n_pages_cached=sum(pool.n_kept for pool in pools),
            n_pages_free=sum(pool.n_blank for pool in pools),
            n_preemptions=self._scheduler.n_preemptions,
            **vars(self._totals),
        )

    def _schedule(
        self, prompt_ids: Sequence[int], *, is_whole: bool = False, is_scored: bool = False
    ) -> ScheduledRequest:
        self._n_arrived += 1
        return ScheduledRequest(
            self._pages.begin(list(prompt_ids)), self._n_arrived, len(prompt_ids), is_whole, is_scored
        )

    def _draft(self, request: ScheduledRequest, n_used: int, n_most: int) -> tuple[int, ...]:
        task = self._tasks[request]
        if (
            not isinstance(task, Writing) or self._executor.config.has_states
        ):  # which a wrong draft would change
            return ()
        return task.generation.draft(n_used, n_most, self._pace.decode_s)

    def _is_waiting(self, request: ScheduledRequest) -> bool:
        task = self._tasks[request]
        return isinstance(task, Writing) and task.generation.waits_for is not None

    def _settle(self, on_ready: Callable[[], None]) -> None:
        """Goes on with texts whose grammars have said what may follow; they have a moment to do so."""
        if not self._unsettled:
            return
        unsettled, self._unsettled = self._unsettled, []
        unsettled = [task for task in unsettled if task.request in self._tasks]
        futures = [task.generation.waits_for for task in unsettled if not task.is_late]
        _, late = concurrent.futures.wait(filter(None, futures), _GRACE_S)
        for future in late:
            future.add_done_callback(lambda _: on_ready())
        for task in unsettled:
            task.is_late = task.generation.waits_for is not None
            if task.is_late:
                self._unsettled.append(task)
                continue
            try:
                delta = task.generation.settle()
                if delta.text:
                    task.on_event(delta)
                self._end_if_complete(task)
            except Exception as error:  # of one request: its grammar, whoever gets its events
                self._fail(task, error)

    def _wanted(self, chunks: Sequence[Chunk], rows: NDArray[np.int32]) -> LogitRows:
        """What is wanted of `rows`, which are those of all chunks that want logits, in their order."""
        edits: list[RowEdits | None] = []
        masks: list[NDArray[np.uint8] | None] = []
        temperatures, targets, n_candidates = list[float](), list[int](), 1
        for chunk in chunks:
            task, n = self._tasks[chunk.request], chunk.n_wanted
            if isinstance(task, Scoring):
                edits += [None] * n
                masks += [None] * n
                temperatures += [0.0] * n
                targets += task.score.targets(chunk.request.text.n_computed, n)
                n_candidates = max(n_candidates, task.score.n_top)
            elif isinstance(task, Writing) and n:
                edits += task.generation.edits(chunk.draft_ids)
                masks += [task.generation.mask()] * n
                temperatures += [task.generation.temperature] * n
                targets += [-1] * n
                n_candidates = max(n_candidates, task.generation.n_candidates)
        return LogitRows(
            rows=rows,
            n_candidates=min(n_candidates, self._executor.config.vocab_size, MOST_CANDIDATES),
            temperature=np.asarray(temperatures, np.float32),
            targets=np.asarray(targets, np.int32),
            edits=joined_edits(edits),
            masks=_joined_masks(masks),
        )

    def _deliver(self, chunks: Sequence[Chunk], candidates: Candidates) -> None:
        """Goes on with every request. All that the nodes still have to send comes first: a node that is lost
        meanwhile leaves the requests as they were."""
        results = self._results(chunks, candidates)
        for chunk, result in zip(chunks, results, strict=True):
            task = self._tasks.get(chunk.request)
            if task is None:  # it has failed, or an event of another one cancelled it
                continue
            try:
                if isinstance(task, Writing):
                    self._write(task, chunk, result.drawn)
                elif isinstance(task, Embedding):
                    assert result.hidden is not None
                    self._add_hidden(task, result.hidden)
                else:
                    self._add_scores(task, chunk, result.drawn)
            except Exception as error:  # of one request: whoever gets its events
                self._fail(task, error)

    def _results(self, chunks: Sequence[Chunk], candidates: Candidates) -> list[_Result]:
        """What each chunk comes to. Ends requests whose logits are no numbers; changes nothing else."""
        whole_logits = functools.cache(self._executor.whole_logits)
        hidden = functools.cache(self._executor.hidden)
        results = []
        first_row = first_wanted = 0
        for chunk in chunks:
            task, result = self._tasks[chunk.request], _Result()
            try:
                if isinstance(task, Embedding):
                    result = _Result(hidden=hidden()[first_row : first_row + chunk.n_rows])
                elif isinstance(task, Scoring):
                    start = chunk.request.text.n_computed
                    result = _Result(drawn=task.score.read(candidates, first_wanted, start, chunk.n_rows))
                elif chunk.wants_logits and task.generation.reason is None:
                    drawn = task.generation.draw(candidates, first_wanted, chunk.draft_ids, whole_logits)
                    result = _Result(drawn=drawn)
            except PeerError:
                raise
            except Exception as error:  # of one request: its logits
                self._fail(task, error)
            results.append(result)
            first_row += chunk.n_rows + len(chunk.draft_ids)
            first_wanted += chunk.n_wanted
        return results

    def _write(self, task: Writing, chunk: Chunk, drawn: Sequence[TokenInfo]) -> None:
        """Goes on with a text by what was drawn for it."""
        request, generation = task.request, task.generation
        self._pages.advance(request.text, chunk.n_rows)
        if not chunk.wants_logits:
            if generation.tells_progress:
                task.on_event(PromptProgress(request.text.n_computed, len(request.text.token_ids)))
            return
        if request.has_only_prompt:
            self._totals.n_prompt_tokens += request.n_prompt
            self._totals.n_cached_tokens += request.n_cached
        if drawn:
            n_taken, delta = generation.accept(drawn)
            request.text.token_ids.extend(info.token_id for info in drawn[:n_taken])
            self._pages.advance(request.text, n_taken - 1)
            self._totals.n_completion_tokens += n_taken
            self._totals.n_drafted += len(chunk.draft_ids)
            self._totals.n_drafted_right += n_taken - 1
            if generation.is_constrained:
                self._unsettled.append(task)
            if delta.tokens or delta.text:
                task.on_event(delta)
        self._end_if_complete(task)

    def _end_if_complete(self, task: Writing) -> None:
        request, generation = task.request, task.generation
        if generation.reason and request in self._tasks:
            self.cancel(request)
            task.on_event(
                Finished(
                    reason=generation.reason,
                    n_prompt=request.n_prompt,
                    n_cached=request.n_cached,
                    n_completion=generation.n_drawn,
                    end_id=generation.end_id,
                )
            )

    def _add_hidden(self, task: Embedding, hidden: NDArray[np.float32]) -> None:
        text = task.request.text
        if not text.n_computed:  # also when it gave its pages up: it is computed from its beginning then
            task.total = np.zeros_like(task.total)
        task.total += hidden.sum(axis=0, dtype=np.float64)
        self._pages.advance(text, len(hidden))
        if not text.n_pending:
            self._totals.n_prompt_tokens += task.request.n_prompt
            self.cancel(task.request)
            length = float(np.linalg.norm(task.total))
            task.on_done((task.total / length if length else task.total).astype(np.float32))

    def _add_scores(self, task: Scoring, chunk: Chunk, infos: Sequence[TokenInfo]) -> None:
        text = task.request.text
        task.score.add(text.n_computed, infos)
        self._pages.advance(text, chunk.n_rows)
        if not text.n_pending:
            self._totals.n_prompt_tokens += task.request.n_prompt
            self.cancel(task.request)
            task.on_done(task.score.infos)

    def _fail(self, task: Task, error: Exception) -> None:
        """Ends one request with an error, which its owner is told."""
        self.cancel(task.request)
        if not isinstance(error, DllamaError):
            _log.error("a request failed", exc_info=error)
            error = DllamaError(f"the request failed: {type(error).__name__}: {error}")
        try:
            task.fail(Failure.of(error).error())
        except Exception:
            _log.exception("nobody takes the events of a request")


@dataclasses.dataclass(frozen=True)
class _Result:
    """What a step gave one chunk: tokens drawn for its text or scored in it, or hidden states [T, D] of its rows."""

    drawn: Sequence[TokenInfo] = ()
    hidden: NDArray[np.float32] | None = None


def _token_chunk(chunk: Chunk) -> TokenChunk:
    text = chunk.request.text
    known = text.token_ids[text.n_computed : text.n_computed + chunk.n_rows]
    return TokenChunk((*known, *chunk.draft_ids), text.n_computed, text.pages, chunk.n_wanted)


def _joined_masks(masks: Sequence[NDArray[np.uint8] | None]) -> LogitMasks | None:
    rows = [row for row, mask in enumerate(masks) if mask is not None]
    if not rows:
        return None
    allowed = np.stack([mask for mask in masks if mask is not None])
    return LogitMasks(index=np.asarray(rows, np.int32), allowed=allowed)
