"""Tensors of a `.m` file."""

from __future__ import annotations

from pathlib import Path

from dllama.checkpoint.m.config import config_from_header
from dllama.checkpoint.recipes import Recipe, stored
from dllama.dtypes import ElementType
from dllama.errors import ModelFileError, UsageError
from dllama.families import ModelConfig, TensorSpec, tensor_specs
from dllama.formats.m_file import MFile


class MSource:
    """TensorSource of a `.m` file, which already has the names, the order and the types that we use."""

    def __init__(self, path: Path, weight_type: ElementType | None) -> None:
        """Raises ModelFileError unless header and size fit, UsageError where `weight_type` contradicts it."""
        self._file = MFile(path)
        self.config = config_from_header(self._file.pairs, path)
        self._check_weight_type(self.config, weight_type, path)
        specs = tensor_specs(self.config)
        self._starts = self._layout(specs, path)
        self._specs = {spec.name: spec for spec in specs}

    @property
    def header(self) -> dict[str, str]:
        """For people."""
        return {f"{int(key)} {key.name.lower()}": str(value) for key, value in self._file.pairs.items()}

    @staticmethod
    def _check_weight_type(config: ModelConfig, weight_type: ElementType | None, path: Path) -> None:
        if weight_type not in (None, config.weight_type):
            raise UsageError(
                f"{path}: its weights are {config.weight_type.label}, not {weight_type.label};"
                f" leave the type away, or convert the original model to {weight_type.label}"
            )

    def _layout(self, specs: list[TensorSpec], path: Path) -> dict[str, int]:
        """Where each tensor starts, counted from the end of the header."""
        starts, at = {}, 0
        for spec in specs:
            if not spec.fits_blocks:
                raise ModelFileError(
                    f"{path}: is damaged: rows of {spec.name} have {spec.n_cols} elements, which are no whole"
                    f" blocks of {spec.dtype.label}"
                )
            starts[spec.name] = at
            at += spec.n_bytes
        expected, found = self._file.header_bytes + at, self._file.file_bytes
        if found != expected:
            what = "truncated" if found < expected else "too long"
            raise ModelFileError(
                f"{path}: is {what}: it has {found} bytes, its header asks for {expected};"
                " copy or convert it again"
            )
        return starts

    def recipe(self, name: str) -> Recipe:
        spec, start = self._specs[name], self._starts[name]
        data = self._file.tensor_bytes[start : start + spec.n_bytes]
        rows = data.reshape(spec.n_rows, spec.row_bytes)
        return stored(rows, spec.n_cols, spec.dtype, f"{self._file.path}: {name}")

    def check(self) -> None:
        self._file.check()

    def check_tensor(self, name: str) -> None:
        self._file.check()

    def let_go(self) -> None:
        self._file.let_go()

    def close(self) -> None:
        self._file.close()
