"""A grammar that restricts what may be drawn, as the engine sees it."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class TokenConstraint(Protocol):
    """The state of one request's grammar. The engine asks and advances it from its own thread only."""

    @property
    def is_finished(self) -> bool:
        """Whether nothing but the end may follow."""
        ...

    def allowed(self) -> NDArray[np.uint8] | None:
        """[ceil(V / 8)] bits as in LogitMasks, of the tokens that may come next; None for all of them."""
        ...

    def advance(self, token_id: int) -> None:
        """Tells which token was drawn; it is one of those that were allowed."""
        ...
