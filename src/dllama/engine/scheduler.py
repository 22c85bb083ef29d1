"""What runs in the next step. Only decisions: nothing is computed here, no clock is read and nothing waits.

Texts that are being written get their rows first; what the pace allows beside them goes to prompts: one half to the
oldest, one half to the one with the least left, so that a short prompt passes a long one and none waits for ever.
When pages run out the youngest text gives its own up and starts again from its tokens when there is room; older
pages of it may still be cached by then.
"""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Callable, Iterable

from dllama.engine.pace import StepPace
from dllama.engine.prefix_cache import CachedText, PrefixCache


@dataclasses.dataclass(eq=False)
class ScheduledRequest:
    """One request as the scheduler sees it: a text of which more is to be computed.

    `is_whole`: something is wanted of all its tokens, so that nothing of it may come from the cache: with `is_scored`
    their logits, else their hidden states.
    """

    text: CachedText
    arrival: int
    n_prompt: int
    is_whole: bool = False
    is_scored: bool = False
    n_cached: int = 0  # tokens of the prompt that did not have to be computed
    last_step: int = 0  # in which it had rows

    @property
    def is_prefilling(self) -> bool:
        """Not a text that grows by what each step draws: a prompt, or one that resumes."""
        return self.text.n_pending != 1 or self.is_whole or self.text.n_computed < self.n_prompt

    @property
    def has_only_prompt(self) -> bool:
        return len(self.text.token_ids) == self.n_prompt


@dataclasses.dataclass(frozen=True)
class Chunk:
    """`n_rows` more tokens of a request in one step, and after them `draft_ids`, which may turn out wrong.

    With `wants_logits`, of the last of its own rows and of all draft tokens; of a scored request, of all rows.
    """

    request: ScheduledRequest
    n_rows: int
    draft_ids: tuple[int, ...]
    wants_logits: bool

    @property
    def n_wanted(self) -> int:
        if not self.wants_logits:
            return 0
        return self.n_rows if self.request.is_scored else 1 + len(self.draft_ids)


Draft = Callable[[ScheduledRequest, int, int], tuple[int, ...]]
"""draft(request, rows of the step so far, most tokens): what probably follows its text."""

IsWaiting = Callable[[ScheduledRequest], bool]
"""Whether it is not known yet what may be drawn for this request, so that its logits are of no use."""


class Scheduler:
    """Requests that wait and requests that run, both in the order in which they arrived."""

    def __init__(
        self, pages: PrefixCache, pace: StepPace, *, n_parallel: int, max_rows: int, max_logit_rows: int
    ) -> None:
        self._pages, self._pace = pages, pace
        self._n_parallel, self._max_rows, self._max_logit_rows = n_parallel, max_rows, max_logit_rows
        self.waiting: deque[ScheduledRequest] = deque()
        self.running: list[ScheduledRequest] = []
        self.n_preemptions = 0
        self._n_steps = 0

    def add(self, request: ScheduledRequest) -> None:
        self.waiting.append(request)

    def remove(self, request: ScheduledRequest) -> None:
        """Forgets a request, whatever its state; its pages are free for others."""
        if request in self.running:
            self.running.remove(request)
            self._pages.release(request.text)
        else:
            self.waiting.remove(request)

    def next_step(self, draft: Draft, is_waiting: IsWaiting = lambda request: False) -> list[Chunk]:
        """Rows that fit into one step, at least one as long as a request is not waiting; their pages are there."""
        self._n_steps += 1
        self._admit()
        chunks = self._decoding(is_waiting)
        if any(request.is_prefilling for request in self.running):
            n_rows = min(self._pace.prompt_rows(len(chunks)), self._max_rows - len(chunks))
            chunks += self._prompts(n_rows, self._max_logit_rows - len(chunks), is_waiting)
            # The others lost their pages to older ones.
            chunks = [chunk for chunk in chunks if chunk.request in self.running]
        else:
            chunks = self._with_drafts(chunks, draft)
        for chunk in chunks:
            chunk.request.last_step = self._n_steps
        return chunks

    def _admit(self) -> None:
        """Requests start in order, each when there are pages for all it has so far."""
        if not self.waiting:
            return
        promised = [0] * len(self._pages.pools)
        for request in self.running:
            promised = self._with_promise(promised, request, n_spare=1)
        while self.waiting and len(self.running) < self._n_parallel:
            request = self.waiting[0]
            if self.running and not self._pages.are_available(self._with_promise(promised, request)):
                return
            self.running.append(self.waiting.popleft())
            promised = self._with_promise(promised, request, n_spare=1)

    def _with_promise(self, promised: list[int], request: ScheduledRequest, n_spare: int = 0) -> list[int]:
        """Pages of each group, with those that the request needs for all it has so far and the next token, and to go on
        for a while."""
        missing = self._pages.n_missing(request.text, len(request.text.token_ids) + 1, n_spare)
        return [n + more for n, more in zip(promised, missing, strict=True)]

    def _decoding(self, is_waiting: IsWaiting) -> list[Chunk]:
        """One row for each text that is being written; where there are more than a step holds they take turns."""
        limit = min(self._max_rows, self._max_logit_rows)
        requests = [
            request for request in self.running if not request.is_prefilling and not is_waiting(request)
        ]
        if limit > 1 and len(requests) < len(self.running):
            limit -= 1  # for a prompt to end in
        if len(requests) > limit:
            chosen = sorted(requests, key=lambda request: (request.last_step, request.arrival))[:limit]
            requests = [request for request in requests if request in chosen]
        return [
            Chunk(request, 1, (), True)
            for request in requests
            if self._has_room(request, len(request.text.token_ids))
        ]

    def _prompts(self, n_rows: int, n_logit_rows: int, is_waiting: IsWaiting) -> list[Chunk]:
        """Chunks of prompts of `n_rows` together, of which `n_logit_rows` may ask for logits."""
        chunks: list[Chunk] = []
        for request, share in self._shares(n_rows):
            n = min(share, n_rows, request.text.n_pending)
            if request not in self.running or n < 1:
                continue
            n = self._pages.n_fitting(request.text, n)
            if n < 1 and request is not self.running[0]:
                continue  # pages that others take for this step are free again after it
            n = max(1, n)
            if request.is_scored:
                n = min(n, n_logit_rows)
            ends = n == request.text.n_pending and not request.is_whole
            if ends and (not n_logit_rows or is_waiting(request)):
                n, ends = n - 1, False
            if n and self._has_room(request, request.text.n_computed + n):
                chunks.append(Chunk(request, n, (), ends or request.is_scored))
                n_rows -= n
                n_logit_rows -= chunks[-1].n_wanted
        return chunks

    def _shares(self, n_rows: int) -> Iterable[tuple[ScheduledRequest, int]]:
        """Prompts in the order in which they get rows, each with how many at the most."""
        requests = [request for request in self.running if request.is_prefilling]
        for request in requests:
            self._adopt(request)
        requests = [
            request
            for index, request in enumerate(requests)
            if not self._is_awaited(request, requests[:index])
        ]
        if len(requests) < 2:
            return [(request, n_rows) for request in requests]
        oldest, *others = requests
        others.sort(key=lambda request: (request.text.n_pending, request.arrival))
        n_oldest = max(n_rows - sum(request.text.n_pending for request in others), -(-n_rows // 2))
        return [(oldest, n_oldest), *((request, n_rows) for request in others)]

    def _adopt(self, request: ScheduledRequest) -> None:
        """Takes what others have computed meanwhile."""
        if request.is_whole or request.text.n_computed % self._pages.page_size:
            return
        n_adopted = self._pages.adopt(request.text)
        if request.has_only_prompt:
            request.n_cached += n_adopted

    def _is_awaited(self, request: ScheduledRequest, older: list[ScheduledRequest]) -> bool:
        """Whether an older prompt is computing the page that this one needs next: it will be there to take. One that
        the older has behind itself could not be taken, for want of pages that its window needs."""
        text, size = request.text, self._pages.page_size
        if request.is_whole or text.n_computed % size or text.n_pending <= size:
            return False
        end = text.n_computed + size
        return any(
            not other.is_whole
            and text.n_computed <= other.text.n_computed < end
            and end <= len(other.text.token_ids)
            and other.text.token_ids[:end] == text.token_ids[:end]
            for other in older
        )

    def _with_drafts(self, chunks: list[Chunk], draft: Draft) -> list[Chunk]:
        """The same chunks, with draft tokens as far as rows and pages are at hand."""
        n_used = len(chunks)
        with_drafts = []
        for chunk in chunks:
            n_most = min(self._max_rows, self._max_logit_rows) - n_used
            draft_ids = draft(chunk.request, n_used, n_most) if n_most > 0 else ()
            if draft_ids and self._pages.make_room(
                chunk.request.text, len(chunk.request.text.token_ids) + len(draft_ids)
            ):
                n_used += len(draft_ids)
                chunk = dataclasses.replace(chunk, draft_ids=draft_ids)
            with_drafts.append(chunk)
        return with_drafts

    def _has_room(self, request: ScheduledRequest, n_tokens: int) -> bool:
        """Pages for the first `n_tokens` of `request`, if need be those of younger ones; False when it is the youngest
        itself that has to wait."""
        while request in self.running:
            if self._pages.make_room(request.text, n_tokens):
                return True
            self._preempt(self.running[-1])
        return False

    def _preempt(self, request: ScheduledRequest) -> None:
        if request.has_only_prompt:
            request.n_cached = 0
        self._pages.release(request.text)
        self.running.remove(request)
        self.waiting.appendleft(request)
        self.n_preemptions += 1
