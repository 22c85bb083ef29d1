"""Comparison with a derived bound, shared by the kernels' tests."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

EPS = 2.0**-23
"""Twice the relative error of one float32 rounding."""

Float32 = NDArray[np.float32]
Floats = NDArray[np.floating]


def assert_within(got: Floats, wanted: Floats, bound: Floats | float) -> None:
    """|got - wanted| <= bound everywhere; shows the worst place."""
    excess = np.abs(got - wanted) - bound
    worst = np.unravel_index(np.argmax(np.where(np.isnan(excess), np.inf, excess)), excess.shape)
    allowed = np.broadcast_to(bound, excess.shape)[worst]
    assert excess[worst] <= 0, f"at {worst}: got {got[worst]!r}, wanted {wanted[worst]!r} within {allowed!r}"
