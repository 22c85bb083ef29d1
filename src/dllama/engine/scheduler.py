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
class Job:
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
class Run:
    """`n_rows` more tokens of a job in one step, and after them `guesses`, which may turn out wrong.

    With `wants_logits`, of the last of its own rows and of all guesses; of a scored job, of all rows.
    """

    job: Job
    n_rows: int
    guesses: tuple[int, ...]
    wants_logits: bool

    @property
    def n_wanted(self) -> int:
        if not self.wants_logits:
            return 0
        return self.n_rows if self.job.is_scored else 1 + len(self.guesses)


Guess = Callable[[Job, int, int], tuple[int, ...]]
"""guess(job, rows of the step so far, most tokens): what probably follows its text."""

IsWaiting = Callable[[Job], bool]
"""Whether it is not known yet what may be drawn for this job, so that its logits are of no use."""


class Scheduler:
    """Jobs that wait and jobs that run, both in the order in which they arrived."""

    def __init__(
        self, pages: PrefixCache, pace: StepPace, *, n_parallel: int, max_rows: int, max_logit_rows: int
    ) -> None:
        self._pages, self._pace = pages, pace
        self._n_parallel, self._max_rows, self._max_logit_rows = n_parallel, max_rows, max_logit_rows
        self.waiting: deque[Job] = deque()
        self.running: list[Job] = []
        self.n_preemptions = 0
        self._n_steps = 0

    def add(self, job: Job) -> None:
        self.waiting.append(job)

    def remove(self, job: Job) -> None:
        """Forgets a job, whatever its state; its pages are free for others."""
        if job in self.running:
            self.running.remove(job)
            self._pages.release(job.text)
        else:
            self.waiting.remove(job)

    def next_step(self, guess: Guess, is_waiting: IsWaiting = lambda job: False) -> list[Run]:
        """Rows that fit into one step, at least one as long as there is any job that is not waiting; their pages are
        there."""
        self._n_steps += 1
        self._admit()
        runs = self._decoding(is_waiting)
        if any(job.is_prefilling for job in self.running):
            n_rows = min(self._pace.prompt_rows(len(runs)), self._max_rows - len(runs))
            runs += self._prompts(n_rows, self._max_logit_rows - len(runs), is_waiting)
            runs = [
                run for run in runs if run.job in self.running
            ]  # the others lost their pages to older ones
        else:
            runs = self._with_guesses(runs, guess)
        for run in runs:
            run.job.last_step = self._n_steps
        return runs

    def _admit(self) -> None:
        """Jobs start in order, each when there are pages for all it has so far."""
        promised = sum(
            max(0, -(-(len(job.text.token_ids) + 1) // self._pages.page_size) - len(job.text.pages))
            for job in self.running
        )
        while self.waiting and len(self.running) < self._n_parallel:
            job = self.waiting[0]
            n_missing = self._pages.n_missing(job.text, len(job.text.token_ids) + 1)
            n_spare = len(self.running)  # so that those that run can go on for a while
            if self.running and n_missing + promised + n_spare > self._pages.pool.n_available:
                return
            promised += n_missing
            self.running.append(self.waiting.popleft())

    def _decoding(self, is_waiting: IsWaiting) -> list[Run]:
        """One row for each text that is being written; where there are more than a step holds they take turns."""
        limit = min(self._max_rows, self._max_logit_rows)
        jobs = [job for job in self.running if not job.is_prefilling and not is_waiting(job)]
        if limit > 1 and len(jobs) < len(self.running):
            limit -= 1  # for a prompt to end in
        if len(jobs) > limit:
            chosen = sorted(jobs, key=lambda job: (job.last_step, job.arrival))[:limit]
            jobs = [job for job in jobs if job in chosen]
        return [Run(job, 1, (), True) for job in jobs if self._has_room(job, len(job.text.token_ids))]

    def _prompts(self, n_rows: int, n_logit_rows: int, is_waiting: IsWaiting) -> list[Run]:
        """Runs of prompts of `n_rows` together, of which `n_logit_rows` may ask for logits."""
        runs: list[Run] = []
        for job, share in self._shares(n_rows):
            n = min(share, n_rows, job.text.n_pending)
            if job not in self.running or n < 1:
                continue
            if job.is_scored:
                n = min(n, n_logit_rows)
            ends = n == job.text.n_pending and not job.is_whole
            if ends and (not n_logit_rows or is_waiting(job)):
                n, ends = n - 1, False
            if n and self._has_room(job, job.text.n_computed + n):
                runs.append(Run(job, n, (), ends or job.is_scored))
                n_rows -= n
                n_logit_rows -= runs[-1].n_wanted
        return runs

    def _shares(self, n_rows: int) -> Iterable[tuple[Job, int]]:
        """Prompts in the order in which they get rows, each with how many at the most."""
        jobs = [job for job in self.running if job.is_prefilling]
        for job in jobs:
            self._adopt(job)
        jobs = [job for index, job in enumerate(jobs) if not self._is_awaited(job, jobs[:index])]
        if len(jobs) < 2:
            return [(job, n_rows) for job in jobs]
        oldest, *others = jobs
        others.sort(key=lambda job: (job.text.n_pending, job.arrival))
        n_oldest = max(n_rows - sum(job.text.n_pending for job in others), -(-n_rows // 2))
        return [(oldest, n_oldest), *((job, n_rows) for job in others)]

    def _adopt(self, job: Job) -> None:
        """Takes what others have computed meanwhile."""
        if job.is_whole or job.text.n_computed % self._pages.page_size:
            return
        n_adopted = self._pages.adopt(job.text)
        if job.has_only_prompt:
            job.n_cached += n_adopted

    def _is_awaited(self, job: Job, older: list[Job]) -> bool:
        """Whether an older prompt is computing the page that this one needs next: it will be there to take."""
        text, size = job.text, self._pages.page_size
        if job.is_whole or text.n_computed % size or text.n_pending <= size:
            return False
        end = text.n_computed + size
        return any(
            not other.is_whole
            and text.n_computed <= other.text.n_computed
            and end <= len(other.text.token_ids)
            and other.text.token_ids[:end] == text.token_ids[:end]
            for other in older
        )

    def _with_guesses(self, runs: list[Run], guess: Guess) -> list[Run]:
        """The same runs, with guesses as far as rows and pages are at hand."""
        n_used = len(runs)
        guessing = []
        for run in runs:
            n_most = min(self._max_rows, self._max_logit_rows) - n_used
            guesses = guess(run.job, n_used, n_most) if n_most > 0 else ()
            if guesses and self._pages.make_room(run.job.text, len(run.job.text.token_ids) + len(guesses)):
                n_used += len(guesses)
                run = dataclasses.replace(run, guesses=guesses)
            guessing.append(run)
        return guessing

    def _has_room(self, job: Job, n_tokens: int) -> bool:
        """Pages for the first `n_tokens` of `job`, if need be those of younger jobs; False when it is the youngest
        itself that has to wait."""
        while job in self.running:
            if self._pages.make_room(job.text, n_tokens):
                return True
            self._preempt(self.running[-1])
        return False

    def _preempt(self, job: Job) -> None:
        if job.has_only_prompt:
            job.n_cached = 0
        self._pages.release(job.text)
        self.running.remove(job)
        self.waiting.appendleft(job)
        self.n_preemptions += 1
