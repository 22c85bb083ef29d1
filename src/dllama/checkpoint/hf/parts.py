"""The tensors that stand for one matrix, where it is stored as several: numbers of few bits, scales, zeros."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from numpy.typing import NDArray

from dllama.checkpoint.hf.floats import FLOATS, FloatTable, numpy_type
from dllama.errors import ModelFileError, UnsupportedModelError
from dllama.formats.safetensors import SafetensorsFile, StoredTensor

Shape: TypeAlias = tuple[int, ...]


class Parts:
    """The tensors whose names are `stem` and a part: `model.layers.0.mlp.up_proj.` and `qweight`, `scales`, ..."""

    def __init__(self, file_of: Mapping[str, SafetensorsFile], stem: str, number: int | None = None) -> None:
        """`number`: which matrix of a stack, where each tensor is one."""
        self._file_of, self.stem, self._number = file_of, stem, number

    def has(self, part: str) -> bool:
        return self.stem + part in self._file_of

    def where(self, part: str) -> str:
        """File and name, for messages."""
        name = self.stem + part
        return f"{self._file_of[name].path}: {name}"

    def tensor(self, part: str) -> StoredTensor:
        name = self.stem + part
        if name not in self._file_of:
            beside = next(file.path for known, file in self._file_of.items() if known.startswith(self.stem))
            raise ModelFileError(
                f"{beside}: the tensor {name} is missing, without which nobody knows what the others of its matrix"
                " mean; download it again"
            )
        return self._file_of[name].tensors[name]

    def length(self, part: str, axis: int) -> int:
        """How long the tensor is along an axis; 0 where it has none."""
        shape = self._shape(part)
        return shape[axis] if -len(shape) <= axis < len(shape) else 0

    def array(self, part: str, dtypes: Sequence[str], *shapes: Shape) -> NDArray[Any]:
        """A view of the map, of the shape that it has; one of `shapes`, and of one of the types. Raises ModelFileError
        where there is no such tensor or it has another shape, UnsupportedModelError where it has another type."""
        tensor = self.tensor(part)
        if tensor.dtype not in dtypes:
            raise UnsupportedModelError(
                f"{self.where(part)} is stored as {tensor.dtype}, which is not read here; read are"
                f" {', '.join(dtypes)}"
            )
        if self._shape(part) not in shapes:
            stacked = () if self._number is None else tensor.shape[:1]
            wanted = " or ".join(str([*stacked, *shape]) for shape in shapes)
            raise ModelFileError(
                f"{self.where(part)} has the shape {list(tensor.shape)}, and its matrix asks for {wanted}"
            )
        data = self._file_of[tensor.name].bytes_of(tensor.name)
        whole = data.view(numpy_type(tensor.dtype)).reshape(tensor.shape)
        return whole if self._number is None else whole[self._number]

    def _shape(self, part: str) -> Shape:
        """That of one matrix. Raises ModelFileError where a stack has not as many."""
        shape = self.tensor(part).shape
        if self._number is None:
            return shape
        if not shape or self._number >= shape[0]:
            raise ModelFileError(
                f"{self.where(part)} has the shape {list(shape)}, and more than {self._number} matrices are asked for"
            )
        return shape[1:]

    def floats(self, part: str, *shapes: Shape) -> FloatTable:
        """As `array`; a vector becomes one column, a single number one row of one column."""
        data = self.array(part, FLOATS, *shapes)
        table = data.reshape(len(data), -1) if data.ndim else data.reshape(1, 1)
        return FloatTable(table, self.tensor(part).dtype)


def bits_of_words(parts: Parts, part: str, axis: int, n: int, known: Sequence[int]) -> int:
    """How many bits each of `n` numbers has that lie in words of 32 along an axis. Raises ModelFileError for what
    cannot be, UnsupportedModelError for what is not read."""
    n_words = parts.length(part, axis)
    bits = 32 * n_words // n if n else 0
    if -(-n * bits // 32) != n_words or not 1 <= bits <= 8:
        raise ModelFileError(
            f"{parts.where(part)} has {n_words} words for {n} numbers, which are no whole bits for each"
        )
    if bits not in known:
        raise UnsupportedModelError(
            f"{parts.where(part)} has {bits} bits for each weight, which are not read; read are"
            f" {', '.join(map(str, known))}"
        )
    return bits


def group_width(parts: Parts, part: str, n_cols: int, n_groups: int) -> int:
    """Columns of each group, where all have as many. Raises ModelFileError where they cannot."""
    if n_groups < 1 or n_cols % n_groups:
        raise ModelFileError(
            f"{parts.where(part)} has {n_groups} groups, into which {n_cols} columns do not go"
        )
    return n_cols // n_groups
