"""What the reference device wants of its operands: a wrong type is a TypeError, a wrong shape a ValueError."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dllama.kernels.device import Buffer, Rows
from dllama.kernels.host_memory import array_of

Float32 = NDArray[np.float32]


def floats(operand: Rows, name: str, n_rows: int) -> Float32:
    """The first rows of a float32 [T, n] operand."""
    array = array_of(operand, name)
    if array.dtype != np.float32:
        raise TypeError(f"{name} must be float32, not {array.dtype}")
    if array.ndim != 2:
        raise ValueError(f"{name} must have 2 dimensions, not {array.ndim}")
    need_rows(array, name, n_rows)
    return array[:n_rows]


def first_columns(array: Float32, name: str, first: int, n: int) -> Float32:
    """`n` columns from `first` on, a view."""
    if not 0 <= first <= array.shape[1] - n:
        raise ValueError(f"{name} has no {n} columns from {first} on")
    return array[:, first : first + n]


def vector(operand: Buffer, name: str) -> Float32:
    array = array_of(operand, name)
    if array.dtype != np.float32:
        raise TypeError(f"{name} must be float32, not {array.dtype}")
    if array.ndim != 1:
        raise ValueError(f"{name} must have 1 dimension, not {array.ndim}")
    return array


def table(operand: Buffer, name: str, shape: tuple[int, int]) -> Float32:
    table = floats(operand, name, shape[0])
    if table.shape != shape:
        raise ValueError(f"{name} must be {list(shape)}, not {list(table.shape)}")
    return table


def need_known(activation: str) -> None:
    if activation not in ("silu", "gelu", "swiglu_oai"):
        raise ValueError("activation must be 'silu', 'gelu' or 'swiglu_oai'")


def need_rows(array: NDArray[Any], name: str, n_rows: int) -> None:
    if not 0 <= n_rows <= len(array):
        raise ValueError(f"n_rows {n_rows} is not between 0 and the {len(array)} rows of {name}")


def need_columns(array: NDArray[Any], name: str, wanted: int) -> None:
    if array.shape[1] != wanted:
        raise ValueError(f"{name}.shape[1] must be {wanted}, not {array.shape[1]}")
