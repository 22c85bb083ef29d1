"""Tensors of a `.m` file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from dllama.checkpoint.m.config import config_from_header, weight_type_of
from dllama.checkpoint.m.layout import in_file_order
from dllama.checkpoint.recipes import Recipe, stack, stored
from dllama.checkpoint.weight_types import M_WEIGHT_TYPES
from dllama.dtypes import ElementType
from dllama.errors import ModelFileError, UsageError
from dllama.formats.m_file import MFile, MKey
from dllama.model import ModelSpec
from dllama.sharding import Tensor


class MSource:
    """TensorSource of a `.m` file, which already has the names, the order and the types that we use."""

    def __init__(self, path: Path, weight_type: ElementType | None) -> None:
        """Raises ModelFileError unless header and size fit, UsageError where `weight_type` contradicts it."""
        self._file = MFile(path)
        pairs = self._file.pairs
        if self._file.is_old:
            pairs = {**pairs, MKey.WEIGHT_TYPE: self._type_by_size(pairs, path)}
        own_type = weight_type_of(pairs, path)
        self.model = ModelSpec.uniform(config_from_header(pairs, path), own_type)
        if weight_type not in (None, own_type):
            raise UsageError(
                f"{path}: its weights are {own_type.label}, not {weight_type.label};"
                f" leave the type away, or convert the original model to {weight_type.label}"
            )
        tensors = list(self.model)
        self._starts = self._layout(tensors, path)
        self._tensors = {tensor.name: tensor for tensor in tensors}

    @property
    def header(self) -> dict[str, str]:
        """For people."""
        return {f"{int(key)} {key.name.lower()}": str(value) for key, value in self._file.pairs.items()}

    def _type_by_size(self, pairs: Mapping[MKey, int], path: Path) -> ElementType:
        """The type with which the file is as long as it is. Raises ModelFileError where there is none."""
        for dtype in M_WEIGHT_TYPES:
            config = config_from_header({**pairs, MKey.WEIGHT_TYPE: dtype}, path)
            tensors = list(ModelSpec.uniform(config, dtype))
            n_bytes = sum(tensor.n_bytes for tensor in tensors if tensor.fits_blocks)
            if self._file.header_bytes + n_bytes == self._file.file_bytes:
                return dtype
        known = ", ".join(dtype.label for dtype in M_WEIGHT_TYPES)
        raise ModelFileError(
            f"{path}: its size fits weights of none of the types {known}, and its header, of an old kind, does not say"
            " which they are; copy or convert it again"
        )

    def _layout(self, tensors: list[Tensor], path: Path) -> dict[str, list[int]]:
        """Where the matrices of each tensor start, counted from the end of the header."""
        for tensor in tensors:
            if not tensor.fits_blocks:
                raise ModelFileError(
                    f"{path}: is damaged: rows of {tensor.name} have {tensor.n_cols} elements, which are no whole"
                    f" blocks of {tensor.dtype.label}"
                )
        # The size first: matrices are not counted through on the word of a header.
        expected = self._file.header_bytes + sum(tensor.n_bytes for tensor in tensors)
        found = self._file.file_bytes
        if found != expected:
            what = "truncated" if found < expected else "too long"
            raise ModelFileError(
                f"{path}: is {what}: it has {found} bytes, its header asks for {expected};"
                " copy or convert it again"
            )
        starts: dict[str, list[int]] = {tensor.name: [] for tensor in tensors}
        at = 0
        for tensor, _ in in_file_order(tensors):
            starts[tensor.name].append(at)
            at += tensor.matrix_bytes
        return starts

    def recipe(self, name: str) -> Recipe:
        tensor, data = self._tensors[name], self._file.tensor_bytes
        parts = []
        for start in self._starts[name]:
            rows = data[start : start + tensor.matrix_bytes].reshape(tensor.n_rows, tensor.row_bytes)
            parts.append(stored(rows, tensor.n_cols, tensor.dtype, f"{self._file.path}: {name}"))
        return stack(parts)

    def check(self) -> None:
        self._file.check()

    def check_of(self, name: str) -> Callable[[], None]:
        return self._file.check

    def let_go(self) -> None:
        self._file.let_go()

    def close(self) -> None:
        self._file.close()
