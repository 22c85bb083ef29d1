"""Which tokens a grammar allows next: llguidance, as the engine's TokenConstraint.

Grammars are JSON schemas or llguidance's dialect of Lark
(https://github.com/guidance-ai/llguidance/blob/main/docs/syntax.md). JSON is written as Python's json.dumps and
most models' training data have it: ", " and ": ", no other white space between tokens, so that a small model cannot
fill its context with blanks.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import llguidance
import numpy as np
from numpy.typing import NDArray

from dllama.errors import DllamaError
from dllama.server.errors import ApiError
from dllama.tokenizer import Tokenizer

JSON_STYLE = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
"""llguidance's options of a JSON schema, under the key "x-guidance"."""


class GrammarConstraint:
    """One text's place in its grammar. See engine.TokenConstraint."""

    def __init__(self, matcher: llguidance.LLMatcher, vocab_size: int) -> None:
        self._matcher = matcher
        self._n_bytes = -(-vocab_size // 8)

    @property
    def is_finished(self) -> bool:
        return self._matcher.is_stopped()

    def allowed(self) -> NDArray[np.uint8]:
        """Once a grammar has failed (see `advance`), everything."""
        bits = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)[: self._n_bytes]
        return np.full(self._n_bytes, 255, np.uint8) if self._matcher.is_error() else bits

    def advance(self, token_id: int) -> None:
        """Raises DllamaError when the grammar asks for more than llguidance's limits allow."""
        self._matcher.consume_token(token_id)
        if self._matcher.is_error():
            raise DllamaError(f"the grammar cannot be followed: {_first_line(self._matcher.get_error())}")


class GrammarCompiler:
    """Makes constraints for one tokenizer. Safe to use from several threads."""

    def __init__(self, tokenizer: Tokenizer, vocab_size: int) -> None:
        """`vocab_size` is that of the logits, which may have more entries than the tokenizer has tokens."""
        self._tokenizer = tokenizer
        self._vocab_size = vocab_size
        self._lock = threading.Lock()
        self._tokens: llguidance.LLTokenizer | None = None

    def json_schema(self, schema: Mapping[str, Any], param: str) -> GrammarConstraint:
        """Raises ApiError for a schema that is unsound or asks for what llguidance does not know."""
        text = json.dumps({**schema, "x-guidance": JSON_STYLE})
        return self._constraint(llguidance.LLMatcher.grammar_from_json_schema(text), param)

    def lark(self, grammar: str, param: str) -> GrammarConstraint:
        return self._constraint(llguidance.LLMatcher.grammar_from_lark(grammar), param)

    def _constraint(self, grammar: str, param: str) -> GrammarConstraint:
        matcher = llguidance.LLMatcher(self._llg_tokenizer(), grammar, log_level=0)
        if matcher.is_error():
            raise ApiError(f"{param}: {_first_line(matcher.get_error())}", param=param, code="invalid_schema")
        return GrammarConstraint(matcher, self._vocab_size)

    def _llg_tokenizer(self) -> llguidance.LLTokenizer:
        """Made when the first grammar comes: it takes a second and some memory for a large vocabulary."""
        with self._lock:
            if self._tokens is None:
                self._tokens = llguidance.LLTokenizer(
                    llguidance.TokenizerWrapper(_Vocabulary(self._tokenizer)),
                    n_vocab=self._vocab_size,
                    eos_token=list(self._tokenizer.eos_ids),
                )
            return self._tokens


class _Vocabulary:
    """What llguidance wants to know of a tokenizer."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        ids = range(tokenizer.vocab_size)
        self._encode = tokenizer.encode
        self.tokens = [tokenizer.token_bytes(token_id) for token_id in ids]
        self.special_token_ids = [token_id for token_id in ids if tokenizer.is_special(token_id)]
        self.eos_token_id = tokenizer.eos_ids[0]
        self.bos_token_id = tokenizer.bos_id

    def __call__(self, text: bytes) -> Sequence[int]:
        return self._encode(text.decode("utf-8", "replace"))


def _first_line(message: str) -> str:
    return message.strip().partition("\n")[0]
