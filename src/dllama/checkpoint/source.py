"""Where a checkpoint's tensors come from."""

from __future__ import annotations

import dataclasses
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from dllama.dtypes import ElementType


@dataclasses.dataclass(frozen=True)
class StoredMatrix:
    """A tensor as the file has it."""

    rows: NDArray[np.uint8]
    """[n_rows, bytes of a row], a read-only view of the map at any alignment."""
    dtype: ElementType
    half_pairs_width: int | None
    """The head width E where the file has Hugging Face's halves and we want adjacent pairs, else None."""
    where: str
    """File and name, for messages."""


class TensorSource(Protocol):
    """Tensors by the names and shapes of families/tensors.py. Safe to use from any thread."""

    def stored(self, name: str) -> StoredMatrix:
        """The tensor `name`. Raises KeyError when the model has none of that name."""

    def check(self) -> None:
        """Raises ModelFileError when a file has been written to since it was opened: what was read may be of both."""

    def check_tensor(self, name: str) -> None:
        """As `check`, for the one file that the tensor is in."""

    def let_go(self) -> None:
        """Gives mapped pages back to the system; nothing becomes invalid."""

    def close(self) -> None:
        """Ends the use of the files. Views that were handed out stay valid."""
