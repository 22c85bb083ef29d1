"""A grammar that restricts what may be drawn, as the engine sees it."""

from __future__ import annotations

import dataclasses
from concurrent.futures import Future
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


@dataclasses.dataclass(frozen=True)
class Following:
    """What may come next. `allowed` [ceil(V / 8)] are bits as in LogitMasks, or None for every token; `is_end` says
    that nothing but the end may follow."""

    allowed: NDArray[np.uint8] | None
    is_end: bool = False


class TokenConstraint(Protocol):
    """The state of one request's grammar. It works out what may come next beside the engine's steps: a grammar that
    takes long holds up its own text and no other."""

    def start(self) -> Future[Following]:
        """What the text may begin with."""
        ...

    def advance(self, token_id: int) -> Future[Following]:
        """What may come after this token, which was drawn from those that were allowed. The last answer is there.

        The future raises UsageError when the grammar cannot be followed any further, or takes too long.
        """
        ...
