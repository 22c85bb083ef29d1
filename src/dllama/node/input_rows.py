"""The embedded inputs of a step as they travel: the narrowest element type that holds them exactly.

The embeddings of published models were bf16 or f16 before they were anything else.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dllama.dtypes import ElementType

STORED: dict[ElementType, np.dtype[Any]] = {
    ElementType.BF16: np.dtype("<u2"),
    ElementType.F16: np.dtype("<f2"),
    ElementType.F32: np.dtype("<f4"),
}
"""How each type lies in a message; bf16 as its bits."""


def encode_inputs(inputs: NDArray[np.float32]) -> tuple[ElementType, NDArray[Any]]:
    """The first of bf16, f16 and f32 that holds every one of `inputs` [T, D], to the bit, and the inputs in it."""
    bits = inputs.view(np.uint32)
    if not (bits & 0xFFFF).any():
        return ElementType.BF16, (bits >> 16).astype(STORED[ElementType.BF16])
    with np.errstate(over="ignore"):
        halves = inputs.astype(STORED[ElementType.F16])
    if (halves.astype(np.float32).view(np.uint32) == bits).all():
        return ElementType.F16, halves
    return ElementType.F32, inputs.astype(STORED[ElementType.F32], copy=False)


def decode_inputs(dtype: ElementType, stored: NDArray[Any]) -> NDArray[np.float32]:
    """The inverse of encode_inputs."""
    if dtype is ElementType.BF16:
        bits = np.asarray(stored, np.uint32)
        return (bits << np.uint32(16)).view(np.float32)
    return np.asarray(stored, np.float32)
