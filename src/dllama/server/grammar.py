"""Which tokens a grammar allows next: llguidance, as the engine's TokenConstraint.

Grammars are JSON schemas or llguidance's dialect of Lark
(https://github.com/guidance-ai/llguidance/blob/main/docs/syntax.md). JSON is written as Python's json.dumps and
most models' training data have it: ", " and ": ", no other white space between tokens, so that a small model cannot
fill its context with blanks.

A grammar may be made to take long: all work on it is done in threads of its own, beside the steps of the model and
behind them where cores are short, and within a budget.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import Any

import llguidance
import numpy as np

from dllama.engine import Following
from dllama.errors import UsageError
from dllama.server.errors import ApiError
from dllama.server.grammar_check import GrammarCheck
from dllama.tokenizer import Tokenizer

JSON_STYLE = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
"""llguidance's options of a JSON schema, under the key "x-guidance"."""

_LIMITS: Mapping[str, int | bool] = {
    "step_lexer_fuel": 100_000,
    "max_lexer_states": 50_000,
    "verbose_errors": False,
}
"""No answer takes much longer than 0.2 s of a core, and no text more than some 100 MB."""

_FREE_S = 1.0
"""Seconds of a core's time that each text has; what comes on top grows with its tokens."""

_PER_TOKEN_S = 0.02
"""Usual grammars need 0.02 to 1 ms."""

_N_THREADS = 2
"""Which say what may come next. One more reads new grammars, so that none of them holds up a text, and one those that
may take seconds, so that these do not hold up the others."""

_NICENESS = 5
"""Where cores are short, threads of the model get three times the share of those of grammars."""


class GrammarConstraint:
    """One text's place in its grammar. See engine.TokenConstraint."""

    def __init__(self, matcher: llguidance.LLMatcher, vocab_size: int, pool: Executor) -> None:
        self._matcher, self._pool = matcher, pool
        self._n_bytes = -(-vocab_size // 8)
        self._first: Future[Following] = Future()
        self._n_tokens, self._used_s = 0, 0.0

    def start(self) -> Future[Following]:
        return self._first

    def work_out_start(self) -> None:
        """Computes what `start` gives, in the caller's thread. Raises UsageError as its future would."""
        self._first.set_result(self._timed(self._following))

    def advance(self, token_id: int) -> Future[Following]:
        return self._pool.submit(self._timed, lambda: self._after(token_id))

    def copy(self) -> GrammarConstraint:
        """For another text, at the beginning as well."""
        other = GrammarConstraint(self._matcher.deep_copy(), self._n_bytes * 8, self._pool)
        other._first = self._first
        return other

    def _timed(self, work: Callable[[], Following]) -> Following:
        start = time.thread_time()
        following = work()
        self._used_s += time.thread_time() - start
        if self._used_s > _FREE_S + self._n_tokens * _PER_TOKEN_S:
            raise UsageError(
                f"the grammar takes too long: {self._used_s:.1f} s for {self._n_tokens} tokens; a simpler one is needed"
            )
        return following

    def _after(self, token_id: int) -> Following:
        self._n_tokens += 1
        self._matcher.consume_token(token_id)
        return self._following()

    def _following(self) -> Following:
        """Raises UsageError when the grammar asks for more than the limits allow."""
        bits = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)[: self._n_bytes]
        if self._matcher.is_error():
            raise UsageError(f"the grammar cannot be followed: {_reason(self._matcher.get_error())}")
        return Following(bits, is_end=self._matcher.is_stopped())


class GrammarCompiler:
    """Makes constraints for one tokenizer. Safe to use from several threads."""

    def __init__(self, tokenizer: Tokenizer, vocab_size: int, end_ids: frozenset[int] = frozenset()) -> None:
        """`vocab_size` is that of the logits, which may have more entries than the tokenizer has tokens, or fewer;
        `end_ids` are end tokens beside the tokenizer's own."""
        self._tokenizer = tokenizer
        self.vocab_size = vocab_size
        ids = dict.fromkeys([*tokenizer.eos_ids, *sorted(end_ids)])
        self.end_ids = [token_id for token_id in ids if token_id < vocab_size] or [vocab_size - 1]
        self._lock = threading.Lock()
        self._tokens: llguidance.LLTokenizer | None = None
        self._check = GrammarCheck(_LIMITS)
        self._compiling = ThreadPoolExecutor(1, "grammar", initializer=_give_way)
        self._trying = ThreadPoolExecutor(1, "doubtful grammar", initializer=_give_way)
        self._following = ThreadPoolExecutor(_N_THREADS, "masks", initializer=_give_way)

    def json_schema(
        self, schema: Mapping[str, Any], param: str, n: int = 1
    ) -> Future[list[GrammarConstraint]]:
        """Constraints for `n` texts. The future raises ApiError for a schema that is unsound, asks for what llguidance
        does not know, or takes too long, and when the model goes away meanwhile, or has gone."""
        return self._promised(lambda: _json_grammar(schema), param, n)

    def lark(self, grammar: str, param: str, n: int = 1) -> Future[list[GrammarConstraint]]:
        return self._promised(lambda: llguidance.LLMatcher.grammar_from_lark(grammar), param, n)

    def close(self) -> None:
        """Ends the threads. Texts that still wait for their grammars wait for ever: they have to be ended before."""
        self._check.close()
        for pool in (self._compiling, self._trying, self._following):
            pool.shutdown(cancel_futures=True)

    def _promised(self, grammar: Callable[[], str], param: str, n: int) -> Future[list[GrammarConstraint]]:
        """Grammars that have to be tried first wait for each other, and no others for them."""
        promise: Future[list[GrammarConstraint]] = Future()

        def begin() -> None:
            text = grammar()
            fault = self._check.known_fault(text)
            if fault is None:
                _submit(self._trying, lambda: finish(text, self._check.fault(text)), promise)
            else:
                finish(text, fault)

        def finish(text: str, fault: str) -> None:
            if fault:
                raise _invalid(param, _reason(fault))
            constraints = self._constraints(text, param, n)
            if promise.set_running_or_notify_cancel():
                promise.set_result(constraints)

        _submit(self._compiling, begin, promise)
        return promise

    def _constraints(self, text: str, param: str, n: int) -> list[GrammarConstraint]:
        limits = llguidance.LLParserLimits(**_LIMITS)  # type: ignore[arg-type]
        matcher = llguidance.LLMatcher(self._llg_tokenizer(), text, log_level=0, limits=limits)
        if matcher.is_error():
            raise _invalid(param, _reason(matcher.get_error()))
        constraint = GrammarConstraint(matcher, self.vocab_size, self._following)
        try:
            constraint.work_out_start()
        except UsageError as error:
            raise _invalid(param, str(error)) from error
        return [constraint, *(constraint.copy() for _ in range(n - 1))]

    def _llg_tokenizer(self) -> llguidance.LLTokenizer:
        """Made when the first grammar comes: it takes a second and some memory for a large vocabulary."""
        with self._lock:
            if self._tokens is None:
                self._tokens = llguidance.LLTokenizer(
                    llguidance.TokenizerWrapper(
                        _Vocabulary(self._tokenizer, self.vocab_size, self.end_ids[0])
                    ),
                    n_vocab=self.vocab_size,
                    eos_token=self.end_ids,
                )
            return self._tokens


class _Vocabulary:
    """What llguidance wants to know of a tokenizer, of which `vocab_size` tokens at most can be drawn."""

    def __init__(self, tokenizer: Tokenizer, vocab_size: int, end_id: int) -> None:
        ids = range(min(tokenizer.vocab_size, vocab_size))
        self._encode = tokenizer.encode
        self.tokens = [tokenizer.token_bytes(token_id) for token_id in ids]
        self.special_token_ids = [token_id for token_id in ids if tokenizer.is_special(token_id)]
        self.eos_token_id = end_id
        self.bos_token_id = tokenizer.bos_id if tokenizer.bos_id in ids else None

    def __call__(self, text: bytes) -> Sequence[int]:
        return self._encode(text.decode("utf-8", "replace"))


def _submit(pool: Executor, work: Callable[[], None], promise: Future[list[GrammarConstraint]]) -> None:
    """Does `work` unless the promise is cancelled before. The promise fails with it, and when the pool is shut down."""

    def settle(done: Future[None]) -> None:
        error = _model_gone() if done.cancelled() else done.exception()
        if error is not None and promise.set_running_or_notify_cancel():
            promise.set_exception(error)

    try:
        future = pool.submit(lambda: None if promise.cancelled() else work())
    except RuntimeError:  # it has been shut down
        future = Future()
        future.cancel()
        future.set_running_or_notify_cancel()
    future.add_done_callback(settle)


def _model_gone() -> ApiError:
    return ApiError(
        "the model went away while the grammar was read: try again",
        status=503, code="model_not_ready", headers={"Retry-After": "1"},
    )  # fmt: skip


def _json_grammar(schema: Mapping[str, Any]) -> str:
    """llguidance's grammar of JSON that follows a schema; an empty one stands for any value."""
    return llguidance.LLMatcher.grammar_from_json_schema(json.dumps({**schema, "x-guidance": JSON_STYLE}))


def _invalid(param: str, reason: str) -> ApiError:
    return ApiError(f"{param}: {reason}", param=param, code="invalid_schema")


def _give_way() -> None:
    """Lowers the priority of this thread; only Linux knows one for each thread."""
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)


def _reason(message: str) -> str:
    """llguidance's sentence without what it says beside it. Of a regular expression it shows the place first."""
    first, *others = message.strip().splitlines() or [""]
    for line in others:
        if first.endswith(":") and line.startswith("error: "):
            return f"{first} {line.removeprefix('error: ')}"
    return "no answer can follow it" if first == "NoExtensionBias" else first
