"""Whether a tokenizer belongs to a model, and a text into a context."""

from __future__ import annotations

from dllama.errors import TokenizerError
from dllama.tokenizer.base import Tokenizer


def check_vocab(tokenizer: Tokenizer, vocab_size: int) -> None:
    """Returns when a model with `vocab_size` rows in its embedding can be `tokenizer`'s.

    Models have rows to spare (Qwen 2.5: 151936 for 151665 tokens), but never fewer rows than tokens, and not
    more than twice as many. Raises TokenizerError otherwise.
    """
    if not vocab_size // 2 <= tokenizer.vocab_size <= vocab_size:
        raise TokenizerError(
            f"the tokenizer has {tokenizer.vocab_size} tokens, which does not fit a model of {vocab_size}: "
            "it is of another model"
        )


def longest_text_bytes(tokenizer: Tokenizer, n_tokens: int) -> int:
    """No text of more bytes has only `n_tokens` tokens: that many of the longest hold this much.

    White space that a tokenizer passes over counts as text here.
    """
    longest = max(
        (len(tokenizer.token_bytes(token_id)) for token_id in range(tokenizer.vocab_size)), default=0
    )
    return n_tokens * max(longest, 1)
