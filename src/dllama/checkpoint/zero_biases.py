"""Biases that add nothing. Some programs write one for every matrix, also of models that have none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dllama.dtypes import ElementType

_FLOATS = (ElementType.F32, ElementType.F16, ElementType.BF16)


def is_zero_bias(name: str, dtype: ElementType | None, bytes_of: Callable[[str], NDArray[np.uint8]]) -> bool:
    """Whether the tensor `name` of a file is one; only what is called a bias is read."""
    if not name.endswith(".bias") or dtype not in _FLOATS:
        return False
    word = np.uint32 if dtype is ElementType.F32 else np.uint16
    bits: NDArray[Any] = np.frombuffer(bytes_of(name).tobytes(), word)
    return not np.any(bits << 1)  # without the sign: -0 is 0
