"""A text's place in a grammar, asked and answered at once."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from dllama.engine import TokenConstraint

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
