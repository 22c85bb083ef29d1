"""Texts as clients may send them: one or several, as text or as token ids, none too long for the context."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeAlias

from dllama.errors import context_full
from dllama.server.errors import ApiError
from dllama.server.served import ServedModel

Text: TypeAlias = str | Sequence[int]


def each_text(given: str | Sequence[str] | Sequence[int] | Sequence[Sequence[int]]) -> list[Text]:
    """One entry for each text: token ids that stand alone are one text."""
    if isinstance(given, str):
        return [given]
    ids = [part for part in given if isinstance(part, int)]
    return [ids] if ids else [part for part in given if not isinstance(part, int)]


def ids_of(text: Text, served: ServedModel, param: str, parse_special: bool | None) -> list[int]:
    """Never empty. Special tokens are found by their names unless `parse_special` is False.

    Raises ApiError for a text without tokens, and for an id that is no token of the model.
    """
    if isinstance(text, str):
        check_room([text], served, param)
        tokenizer = served.tokenizer
        ids = tokenizer.encode(text, add_bos=tokenizer.add_bos, parse_special=parse_special is not False)
        check_n_tokens(len(ids), served, param)
    else:
        check_n_tokens(len(text), served, param)
        ids = check_ids(text, served, param)
    if not ids:
        raise ApiError(f"{param}: a text without tokens is nothing to begin with", param=param)
    return ids


def check_room(texts: Iterable[str], served: ServedModel, param: str) -> None:
    """Raises ApiError where not even the longest tokens would bring these texts into the context together.

    It looks at lengths alone: to make ids of a text takes up to a second for each MB, and a few hundred MB of memory.
    """
    n_bytes = sum(len(text) if text.isascii() else len(text.encode()) for text in texts)
    if n_bytes > served.max_text_bytes:
        longest = served.max_text_bytes // served.max_seq_len
        raise _too_long(f"at least {-(-n_bytes // longest)}", served, param)


def check_n_tokens(n_tokens: int, served: ServedModel, param: str) -> None:
    """Raises ApiError where they are more than the context holds."""
    if n_tokens > served.max_seq_len:
        raise _too_long(n_tokens, served, param)


def _too_long(n_tokens: int | str, served: ServedModel, param: str) -> ApiError:
    message = str(context_full(f"{param}: it", n_tokens, served.max_seq_len))
    return ApiError(message, param=param, code="context_length_exceeded")


def check_ids(ids: Sequence[int], served: ServedModel, param: str) -> list[int]:
    """`ids`. Raises ApiError for one that is no token of the model."""
    vocab_size = served.tokenizer.vocab_size
    for token_id in ids:
        if token_id >= vocab_size:
            raise ApiError(
                f"{param}: the model has no token {token_id}, only 0 to {vocab_size - 1}", param=param
            )
    return list(ids)
