"""Whether a tokenizer belongs to a model, and a text into a context."""

from __future__ import annotations

import logging

from dllama.errors import TokenizerError
from dllama.tokenizer.base import Tokenizer

_log = logging.getLogger(__name__)

_MOST_MORE = 256  # more are no forgotten padding or chat tokens


def check_vocab(tokenizer: Tokenizer, vocab_size: int) -> None:
    """Returns when a model with `vocab_size` rows in its embedding can be `tokenizer`'s.

    Models have rows to spare (Qwen 2.5: 151936 for 151665 tokens), but not more than twice as many as tokens. Some
    have a few rows less, since a padding token was added to the tokenizer alone: that is logged, and such tokens
    are refused when they come up. Raises TokenizerError otherwise.
    """
    n_more = tokenizer.vocab_size - vocab_size
    if tokenizer.vocab_size < vocab_size // 2 or n_more > min(_MOST_MORE, vocab_size // 8):
        raise TokenizerError(
            f"the tokenizer has {tokenizer.vocab_size} tokens, which does not fit a model of {vocab_size}: "
            "it is of another model"
        )
    if n_more > 0:
        _log.warning(
            "the tokenizer has %d tokens more than the model's %d: texts in which they come up are refused",
            n_more,
            vocab_size,
        )


def longest_text_bytes(tokenizer: Tokenizer, n_tokens: int) -> int:
    """No text of more bytes has only `n_tokens` tokens: that many of the longest hold this much.

    White space that a tokenizer passes over counts as text here.
    """
    longest = max(
        (len(tokenizer.token_bytes(token_id)) for token_id in range(tokenizer.vocab_size)), default=0
    )
    return n_tokens * max(longest, 1)
