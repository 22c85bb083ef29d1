"""A text's place in a grammar, asked and answered at once."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from types import MappingProxyType

import numpy as np

from dllama.engine import TokenConstraint
from dllama.server.grammar import GrammarCompiler
from dllama.tokenizer import Tokenizer

TIMEOUT_S = 55.0


class Place:
    def __init__(self, constraint: TokenConstraint) -> None:
        self._constraint = constraint
        self._following = constraint.start().result(TIMEOUT_S)

    @property
    def is_finished(self) -> bool:
        return self._following.is_end

    def advance(self, token_id: int) -> None:
        self._following = self._constraint.advance(token_id).result(TIMEOUT_S)

    def advance_all(self, token_ids: Iterable[int]) -> None:
        for token_id in token_ids:
            self.advance(token_id)

    @property
    def allowed_ids(self) -> list[int]:
        assert self._following.allowed is not None
        return [int(i) for i in np.flatnonzero(np.unpackbits(self._following.allowed, bitorder="little"))]


def accepts(
    grammars: GrammarCompiler,
    tokenizer: Tokenizer,
    grammar: str,
    text: str,
    marks: Mapping[str, int] = MappingProxyType({}),
) -> bool:
    """Whether `text`, in which the names of `marks` are those tokens, is all that the grammar wants."""
    (constraint,) = grammars.lark(grammar, "tools").result(TIMEOUT_S)
    place = Place(constraint)
    names = "|".join(map(re.escape, marks))
    for part in filter(None, re.split(f"({names})", text) if marks else [text]):
        for token_id in [marks[part]] if part in marks else tokenizer.encode(part):
            if token_id not in place.allowed_ids:
                return False
            place.advance(token_id)
    return tokenizer.eos_ids[0] in place.allowed_ids
