"""Texts as clients may send them: one or several, as text or as token ids."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

from dllama.server.errors import ApiError
from dllama.server.served import ServedModel

Text: TypeAlias = str | Sequence[int]


def each_text(given: str | Sequence[str] | Sequence[int] | Sequence[Sequence[int]]) -> list[Text]:
    """One entry for each text: token ids that stand alone are one text."""
    if isinstance(given, str):
        return [given]
    ids = [part for part in given if isinstance(part, int)]
    return [ids] if ids else [part for part in given if not isinstance(part, int)]


def ids_of(text: Text, served: ServedModel, param: str) -> list[int]:
    """Never empty. Raises ApiError for a text without tokens, and for an id that is no token of the model."""
    if isinstance(text, str):
        tokenizer = served.tokenizer
        ids = tokenizer.encode(text, add_bos=tokenizer.add_bos)
    else:
        ids = check_ids(text, served, param)
    if not ids:
        raise ApiError(f"{param}: a text without tokens is nothing to begin with", param=param)
    return ids


def check_ids(ids: Sequence[int], served: ServedModel, param: str) -> list[int]:
    """`ids`. Raises ApiError for one that is no token of the model."""
    vocab_size = served.tokenizer.vocab_size
    for token_id in ids:
        if token_id >= vocab_size:
            raise ApiError(
                f"{param}: the model has no token {token_id}, only 0 to {vocab_size - 1}", param=param
            )
    return list(ids)
