"""Tensors of a GGUF file."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from dllama.checkpoint.expert_types import make_experts_agree
from dllama.checkpoint.gguf.config import read_gguf_config
from dllama.checkpoint.gguf.names import LONG_FACTORS, ROPE_FACTORS, SHORT_FACTORS, gguf_name, gguf_names
from dllama.checkpoint.gguf.types import gguf_recipe, is_read, memory_type
from dllama.checkpoint.recipes import Recipe
from dllama.checkpoint.stored_part import fits, has_shape, part_recipe, stored_shape
from dllama.checkpoint.weight_types import model_of_type
from dllama.checkpoint.zero_biases import is_zero_bias
from dllama.dtypes import ElementType
from dllama.errors import ModelFileError, UnsupportedModelError
from dllama.families import StoredPart
from dllama.formats.gguf import GgufFile
from dllama.model import ModelSpec, TensorTypes
from dllama.plain_text import LONGEST_NAME, plain_line
from dllama.sharding import Tensor

_log = logging.getLogger(__name__)

_TABLES = "|".join(re.escape(name) for name in (ROPE_FACTORS, SHORT_FACTORS, LONG_FACTORS))
_BOOKKEEPING = re.compile(rf"{_TABLES}|blk\.\d+\.attn_rot_embd(\.weight)?")
"""Tables that the config says, or that older files have."""

_LAYER = re.compile(r"blk\.(\d{1,6})\.")


class GgufSource:
    """TensorSource of a GGUF file, all parts of a split one."""

    def __init__(self, path: Path, weight_type: ElementType | None) -> None:
        """Opens every file and checks every tensor's place, shape and type.

        `weight_type`: what matrices become (weight_types.py), in place of what each has. Raises ModelFileError or
        UnsupportedModelError naming the file, and the key or the tensor.
        """
        self._file = GgufFile(path)
        model = read_gguf_config(self._file)
        self._family = model.family
        self._tied_head = model.tied_head
        self.config = model.config
        as_floats = list(ModelSpec.uniform(self.config, ElementType.F32))
        self._stored_names = {tensor.name: self._stored_name(tensor.name) for tensor in as_floats}
        for tensor in as_floats:
            self._check(tensor)
        packed = [tensor.name for tensor in as_floats if tensor.is_packed and tensor.name != "embedding"]
        self.model = (
            self._as_stored(packed) if weight_type is None else model_of_type(self.config, weight_type)
        )
        self._tensors = self.model.by_name
        self._refuse_what_would_be_missed()
        if weight_type is None:
            self._say_what_is_quantised_anew(packed)

    @property
    def metadata(self) -> dict[str, str]:
        """For people."""
        return {key: _shown(value) for key, value in self._file.metadata.items()}

    def recipe(self, name: str) -> Recipe:
        wanted, of = self._tensors[name], self._part(name)
        if of is None:
            return self._matrix(name, wanted.n_cols)
        return part_recipe(of, wanted, lambda n_rows, n_cols: self._matrix(name, n_cols))

    def _matrix(self, name: str, n_cols: int) -> Recipe:
        """All that is stored of what our `name` is, or is a part of."""
        stored_name = self._stored_names[name]
        where = f"{self._file.path_of(stored_name)}: {stored_name}"
        return gguf_recipe(self._file.bytes_of(stored_name), self._file.tensors[stored_name], n_cols, where)

    def _part(self, name: str) -> StoredPart | None:
        prefix, _, rest = name.partition(".")
        if prefix != "layers":
            return None
        layer, _, part = rest.partition(".")
        return gguf_names(self._family).part_of(self.config.layer(int(layer)), part)

    def check(self) -> None:
        self._file.check()

    def check_of(self, name: str) -> Callable[[], None]:
        return self._file.check_of(self._stored_names[name])

    def let_go(self) -> None:
        self._file.let_go()

    def close(self) -> None:
        self._file.close()

    def _stored_name(self, name: str) -> str:
        of = self._part(name)
        if of is not None:
            return of.name(name.split(".")[1])
        return gguf_name(self._family, "embedding" if name == "head" and self._tied_head else name)

    def _as_stored(self, matrices: list[str]) -> ModelSpec:
        types = {name: self._memory_type(name) for name in matrices}
        self._make_experts_agree(types)
        return ModelSpec(self.config, TensorTypes.of_names(types, self.config.n_layers))

    def _memory_type(self, name: str) -> ElementType:
        dtype, of = memory_type(self._file.tensors[self._stored_names[name]].type), self._part(name)
        return dtype if of is None or fits(dtype, of) else ElementType.Q80

    def _check(self, wanted: Tensor) -> None:
        name = self._stored_names[wanted.name]
        tensor = self._file.tensors.get(name)
        if tensor is None:
            raise ModelFileError(
                f"{self._file.path}: lacks the tensor {name}, which a {self._family.name} model of"
                f" {self.config.n_layers} layers has; download it again"
            )
        of, expected = self._part(wanted.name), wanted.shape
        if of is not None:
            expected, is_as_expected = stored_shape(of, wanted), has_shape(tensor.shape, of, wanted)
        else:
            is_as_expected = _without_ones(tensor.shape) == _without_ones(expected)
        if tensor.shape != expected and not is_as_expected:
            raise ModelFileError(
                f"{self._file.path_of(name)}: {name} has the shape {list(tensor.shape)}, its metadata asks for"
                f" {list(expected)}"
            )
        if not is_read(tensor.type):
            raise UnsupportedModelError(
                f"{self._file.path_of(name)}: {name} is stored as {tensor.type.name}, which is not read; take the"
                " model in another type"
            )

    def _refuse_what_would_be_missed(self) -> None:
        known = set(self._stored_names.values())
        for name, tensor in self._file.tensors.items():
            if (
                name in known
                or _BOOKKEEPING.fullmatch(name)
                or is_zero_bias(name, tensor.type.element_type, self._file.bytes_of)
                or (self._family.predicts_further and _layer_of(name) >= self.config.n_layers)
            ):
                continue
            raise UnsupportedModelError(
                f"{self._file.path_of(name)}: {plain_line(name, LONGEST_NAME)} has no place in a {self._family.name}"
                f" model of {self.config.n_layers} layers; without it the answers would be wrong"
            )

    def _make_experts_agree(self, types: dict[str, ElementType]) -> None:
        n_differing = make_experts_agree(types)
        if n_differing:
            _log.warning(
                "%s: gate and up projections of experts differ in type in %d layers: in memory they are q80",
                self._file.path, n_differing,
            )  # fmt: skip

    def _say_what_is_quantised_anew(self, matrices: list[str]) -> None:
        """Not of the embedding, of which rows are read as they are needed."""
        kinds = [self._file.tensors[self._stored_names[name]].type for name in matrices]
        parts = [self._part(name) for name in matrices]
        n_apart = sum(
            of is not None and not fits(memory_type(kind), of) for of, kind in zip(parts, kinds, strict=True)
        )
        if n_apart:
            _log.warning(
                "%s: %d matrices have heads in another order, and several in a block: in memory they are q80",
                self._file.path, n_apart,
            )  # fmt: skip
        for kind, n in Counter(kinds).items():
            if memory_type(kind) is not kind.element_type:
                _log.warning(
                    "%s: %d of %d matrices are %s, for which there is no kernel: in memory they are %s",
                    self._file.path, n, len(matrices), kind.name, memory_type(kind).label,
                )  # fmt: skip


def _layer_of(name: str) -> int:
    """-1 outside of layers."""
    found = _LAYER.match(name)
    return -1 if found is None else int(found[1])


def _without_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    """ggml has no more dimensions than are needed: `[1, n]` is `[n]`."""
    return tuple(n for n in shape if n != 1)


def _shown(value: object) -> str:
    if isinstance(value, bool | int | float | str):
        return plain_line(str(value), LONGEST_NAME)
    return f"{len(value)} values" if hasattr(value, "__len__") else ""
