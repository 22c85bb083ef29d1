"""Where a checkpoint's tensors come from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from dllama.checkpoint.recipes import Recipe


class TensorSource(Protocol):
    """Tensors by the names and shapes of model/tensors.py. Safe to use from any thread."""

    def recipe(self, name: str) -> Recipe:
        """How the tensor `name` is read. Raises KeyError when the model has none of that name."""

    def check(self) -> None:
        """Raises ModelFileError when a file has been written to since it was opened: what was read may be of both."""

    def check_of(self, name: str) -> Callable[[], None]:
        """`check` for the one file that the tensor is in, to be called again and again."""

    def let_go(self) -> None:
        """Gives mapped pages back to the system; nothing becomes invalid."""

    def close(self) -> None:
        """Ends the use of the files. Views that were handed out stay valid."""
