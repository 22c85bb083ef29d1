"""The embedded inputs of a step: at hand, or still on their way from the root when the step begins."""

from __future__ import annotations

from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray


class ComingInputs(Protocol):
    """Those of a large step, which travel in the runs in which it is computed."""

    def bring(self, x: NDArray[np.float32], rows: slice, timeout_s: float) -> None:
        """x [T, D] := the inputs of `rows` of the step. All ranks call it for the same rows, one call after the other.
        Raises PeerError."""


Inputs: TypeAlias = NDArray[np.float32] | ComingInputs
"""[T, D], or the way to get them."""
