"""Log-probabilities of drawn tokens, in the shapes of chats and of completions."""

from __future__ import annotations

import math
from collections.abc import Sequence

from dllama.engine import TokenInfo
from dllama.server.responses import ChatLogprobs, CompletionLogprobs, TokenLogprob, TokenLogprobs

LEAST = -9999.0
"""What stands for the logarithm of 0, which JSON cannot say; as OpenAI has it."""


def chat_logprobs(tokens: Sequence[TokenInfo]) -> ChatLogprobs:
    return ChatLogprobs(
        content=[
            TokenLogprobs(
                token=_text(token.text_bytes),
                logprob=_finite(token.logprob),
                bytes=list(token.text_bytes),
                top_logprobs=[
                    TokenLogprob(token=_text(text), logprob=_finite(logprob), bytes=list(text))
                    for _, text, logprob in token.top
                ],
            )
            for token in tokens
        ]
    )


def completion_logprobs(tokens: Sequence[TokenInfo], offset: int) -> CompletionLogprobs:
    """`offset`: where the first of them begins in the text. The first token of a prompt has none: NaN becomes null."""
    offsets = []
    for token in tokens:
        offsets.append(offset)
        offset += len(_text(token.text_bytes))
    return CompletionLogprobs(
        tokens=[_text(token.text_bytes) for token in tokens],
        token_logprobs=[None if math.isnan(token.logprob) else _finite(token.logprob) for token in tokens],
        top_logprobs=[
            None
            if math.isnan(token.logprob)
            else {_text(text): _finite(logprob) for _, text, logprob in token.top}
            for token in tokens
        ],
        text_offset=offsets,
    )


def _text(token: bytes) -> str:
    return token.decode("utf-8", "replace")


def _finite(logprob: float) -> float:
    return max(logprob, LEAST)
