"""The embedded inputs of a step as they travel: the narrowest element type that holds them exactly.

The embeddings of published models were bf16 or f16 before they were anything else. Many inputs come after the step's
message, each run's by themselves: computing begins with the first, and no link carries them more than once.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dllama.dtypes import ElementType, row_bytes
from dllama.fabric import Fabric, scattered_broadcast
from dllama.model import Inputs

STORED: dict[ElementType, np.dtype[Any]] = {
    ElementType.BF16: np.dtype("<u2"),
    ElementType.F16: np.dtype("<f2"),
    ElementType.F32: np.dtype("<f4"),
}
"""How each type lies in a message; bf16 as its bits."""

APART_BYTES = 128 * 1024
"""Inputs of so many bytes, a millisecond at 1 Gbit/s, come after the message."""


@dataclasses.dataclass(frozen=True)
class InputRows:
    """`stored` [T, D] holds elements of `dtype`, as in STORED. On a worker they may be still to come."""

    dtype: ElementType
    stored: NDArray[Any]

    @classmethod
    def from_message(
        cls, dtype: ElementType, shape: tuple[int, int], payload: bytes | bytearray, start: int
    ) -> InputRows:
        """[T, D] from `payload`, where they begin at `start` unless they travel apart."""
        if not message_bytes(dtype, shape):
            return cls(dtype, np.empty(shape, STORED[dtype]))
        return cls(dtype, np.frombuffer(payload, STORED[dtype], math.prod(shape), start).reshape(shape))

    @property
    def travel_apart(self) -> bool:
        return message_bytes(self.dtype, self.stored.shape) == 0

    def decode(self, rows: slice = slice(None)) -> NDArray[np.float32]:
        """The inverse of encode_inputs, for some of the rows."""
        if self.dtype is ElementType.BF16:
            bits = np.asarray(self.stored[rows], np.uint32)
            return (bits << np.uint32(16)).view(np.float32)
        return np.asarray(self.stored[rows], np.float32)


def message_bytes(dtype: ElementType, shape: tuple[int, ...]) -> int:
    """How many bytes of the inputs [T, D] the step's message holds: all of them or none."""
    n_bytes = row_bytes(dtype, math.prod(shape))
    return n_bytes if n_bytes < APART_BYTES else 0


def encode_inputs(inputs: NDArray[np.float32]) -> InputRows:
    """`inputs` [T, D] in the first of bf16, f16 and f32 that holds every one of them to the bit."""
    halves = inputs.view(STORED[ElementType.BF16])  # the lower before the upper
    if not halves[:, ::2].any():
        return InputRows(ElementType.BF16, halves[:, 1::2].copy())
    with np.errstate(over="ignore"):
        narrow = inputs.astype(STORED[ElementType.F16])
    if (narrow.astype(np.float32).view(np.uint32) == inputs.view(np.uint32)).all():
        return InputRows(ElementType.F16, narrow)
    return InputRows(ElementType.F32, inputs.astype(STORED[ElementType.F32], copy=False))


def step_inputs(rows: InputRows, fabric: Fabric) -> Inputs:
    """What a rank computes a step from, once it has sent, or received, the step's message with `rows`."""
    return _SharedInputs(rows, fabric) if rows.travel_apart else rows.decode()


class _SharedInputs:
    """See ComingInputs. The root has them."""

    def __init__(self, inputs: InputRows, fabric: Fabric) -> None:
        self._inputs, self._fabric = inputs, fabric

    def bring(self, x: NDArray[np.float32], rows: slice, timeout_s: float) -> None:
        scattered_broadcast(self._fabric, self._inputs.stored[rows], 0, timeout_s)
        x[:] = self._inputs.decode(rows)
