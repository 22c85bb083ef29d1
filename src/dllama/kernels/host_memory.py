"""Buffers of devices that compute in the memory that Python sees: NumPy arrays, looked up once."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from dllama._native import BoundArray
from dllama.kernels.device import Buffer


class HostBuffer(BoundArray):
    """An array as an operand."""

    def __init__(self, array: NDArray[Any]) -> None:
        super().__init__(array)
        self.array = array

    @property
    def shape(self) -> tuple[int, ...]:
        return self.array.shape

    @property
    def nbytes(self) -> int:
        return self.array.nbytes


class SameMemory:
    """See HostView."""

    def __init__(self, array: NDArray[Any]) -> None:
        self.array = array

    def push(self, rows: slice = slice(None)) -> None:
        """Nothing to do."""

    def pull(self, rows: slice = slice(None)) -> None:
        """Nothing to do."""


class HostMemory:
    """The memory part of Device."""

    def buffer(self, *shape: int, dtype: DTypeLike = np.float32) -> HostBuffer:
        return HostBuffer(np.zeros(shape, dtype))

    def part(self, buffer: Buffer, rows: slice) -> HostBuffer:
        return HostBuffer(array_of(buffer)[rows])

    def flat(self, buffer: Buffer) -> HostBuffer:
        return HostBuffer(array_of(buffer).reshape(1, -1))

    def take(self, buffer: Buffer, rows: NDArray[np.int32]) -> HostBuffer:
        return HostBuffer(array_of(buffer)[rows])

    def bind(self, array: NDArray[Any]) -> HostBuffer:
        return HostBuffer(array)

    def view(self, buffer: Buffer) -> SameMemory:
        return SameMemory(array_of(buffer))


def array_of(operand: object, name: str = "buffer") -> NDArray[Any]:
    """The memory of an operand: a buffer, or an array as it is. Raises TypeError for anything else."""
    if isinstance(operand, HostBuffer):
        return operand.array
    if isinstance(operand, np.ndarray):
        return operand
    raise TypeError(f"{name} must be a buffer of this device")
