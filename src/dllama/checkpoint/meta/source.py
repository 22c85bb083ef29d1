"""Tensors of a model that Meta or Mistral has published. Rows of q and k are in adjacent pairs."""

from __future__ import annotations

import enum
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from dllama.checkpoint.hf.types import DEFAULT_WEIGHT_TYPE
from dllama.checkpoint.meta.config import read_params
from dllama.checkpoint.meta.files import PARAMS_FILE, TensorFile, open_shards
from dllama.checkpoint.recipes import Recipe, side_by_side, stack, stored
from dllama.checkpoint.weight_types import model_of_type
from dllama.dtypes import ElementType
from dllama.errors import ModelFileError, UnsupportedModelError

_log = logging.getLogger(__name__)


class _Divided(enum.Enum):
    """How a tensor is divided among shards."""

    ROWS = enum.auto()
    COLUMNS = enum.auto()
    NOT = enum.auto()
    EITHER = enum.auto()
    """By rows in Llama 3, by columns before."""


_NAMES: Mapping[str, tuple[str, _Divided]] = MappingProxyType(
    {
        "embedding": ("tok_embeddings.weight", _Divided.EITHER),
        "q": ("layers.{layer}.attention.wq.weight", _Divided.ROWS),
        "k": ("layers.{layer}.attention.wk.weight", _Divided.ROWS),
        "v": ("layers.{layer}.attention.wv.weight", _Divided.ROWS),
        "o": ("layers.{layer}.attention.wo.weight", _Divided.COLUMNS),
        "gate": ("layers.{layer}.feed_forward.w1.weight", _Divided.ROWS),
        "down": ("layers.{layer}.feed_forward.w2.weight", _Divided.COLUMNS),
        "up": ("layers.{layer}.feed_forward.w3.weight", _Divided.ROWS),
        "attention_norm": ("layers.{layer}.attention_norm.weight", _Divided.NOT),
        "ffn_norm": ("layers.{layer}.ffn_norm.weight", _Divided.NOT),
        "final_norm": ("norm.weight", _Divided.NOT),
        "head": ("output.weight", _Divided.ROWS),
    }
)
_BOOKKEEPING = ("rope.freqs", "freqs_cis")
_OTHER_SENSES = ("vision_encoder.", "vision_language_adapter.", "patch_merger.", "pre_mm_projector_norm.")


class MetaSource:
    """TensorSource of a folder with params.json and consolidated.*."""

    def __init__(self, folder: Path, weight_type: ElementType | None) -> None:
        """Opens every file and checks every tensor's place, shape and type. `weight_type`: what all matrices become, or
        the default. Raises ModelFileError or UnsupportedModelError naming the file, and the key or the tensor."""
        self._shards, self._folder = open_shards(folder), folder
        self._is_tied = "output.weight" not in self._shards[0]
        sizes = {
            "intermediate_size": self._n_rows("layers.0.feed_forward.w1.weight"),
            "vocab_size": self._n_rows("tok_embeddings.weight" if self._is_tied else "output.weight"),
        }
        model = read_params(folder / PARAMS_FILE, sizes, is_tied=self._is_tied)
        self.model = model_of_type(model.config, weight_type or DEFAULT_WEIGHT_TYPE)
        self._tensors = {tensor.name: tensor for tensor in self.model}
        for name in self._tensors:
            self.recipe(name)
        self._refuse_what_would_be_missed()

    def recipe(self, name: str) -> Recipe:
        tensor = self._tensors[name]
        stored_name, divided = self._place(name)
        files = self._files_of(stored_name)
        if divided is _Divided.NOT:
            files = files[:1]
        if divided is _Divided.EITHER:
            by_rows = files[0].tensors[stored_name].shape[-1] == tensor.n_cols
            divided = _Divided.ROWS if by_rows else _Divided.COLUMNS
        parts = [_matrix(file, stored_name) for file in files]
        if not _fit(parts, (tensor.n_rows, tensor.n_cols), divided):
            shapes = " and ".join(str(list(file.tensors[stored_name].shape)) for file in files)
            raise ModelFileError(
                f"{files[0].path}: {stored_name} has the shape {shapes}, {PARAMS_FILE} asks for {list(tensor.shape)}"
            )
        return side_by_side(parts) if divided is _Divided.COLUMNS else stack(parts)

    def check(self) -> None:
        for file in self._files():
            file.check()

    def check_of(self, name: str) -> Callable[[], None]:
        files = list(self._files_of(self._place(name)[0]))

        def check() -> None:
            for file in files:
                file.check()

        return check

    def let_go(self) -> None:
        for file in self._files():
            file.let_go()

    def close(self) -> None:
        for file in self._files():
            file.close()

    def _files(self) -> set[TensorFile]:
        return {file for shard in self._shards for file in shard.values()}

    def _place(self, name: str) -> tuple[str, _Divided]:
        """What the files call our `name`."""
        _, _, rest = name.partition(".")
        layer, _, part = rest.partition(".") if name.startswith("layers.") else ("", "", name)
        pattern, divided = _NAMES["embedding" if part == "head" and self._is_tied else part]
        return pattern.format(layer=layer), divided

    def _files_of(self, stored_name: str) -> list[TensorFile]:
        """One for each shard. Raises ModelFileError where one has no such tensor."""
        for shard in self._shards:
            if stored_name not in shard:
                where = next((file.path for file in shard.values()), self._folder)
                raise ModelFileError(f"{where}: the tensor {stored_name} is missing; download it again")
        return [shard[stored_name] for shard in self._shards]

    def _n_rows(self, stored_name: str) -> int:
        """Of what is divided by rows, if it is."""
        shapes = [file.tensors[stored_name].shape for file in self._files_of(stored_name)]
        return sum(shape[0] for shape in shapes if shape)

    def _refuse_what_would_be_missed(self) -> None:
        known = {self._place(name)[0] for name in self._tensors}
        left: list[str] = []
        for name, file in _all_tensors(self._shards):
            if name in known or name in _BOOKKEEPING:
                continue
            if not name.startswith(_OTHER_SENSES):
                raise UnsupportedModelError(
                    f"{file.path}: {name} has no place in a {self.model.config.family} model of"
                    f" {self.model.config.n_layers} layers; without it the answers would be wrong"
                )
            left.append(name)
        if left:
            _log.warning("%s: %s and others: no part of the text model, not used", self._folder, left[0])


def _fit(parts: Sequence[Recipe], shape: tuple[int, int], divided: _Divided) -> bool:
    """Whether the parts are of one type, and a matrix of this shape together."""
    shapes = [(part.n_rows, part.n_cols) for part in parts]
    axis = 1 if divided is _Divided.COLUMNS else 0
    is_as_long = sum(each[axis] for each in shapes) == shape[axis]
    are_alike = {each[1 - axis] for each in shapes} == {shape[1 - axis]}
    return is_as_long and are_alike and len({part.dtype for part in parts}) == 1


def _matrix(file: TensorFile, name: str) -> Recipe:
    tensor = file.tensors[name]
    if tensor.element_type is None:
        raise UnsupportedModelError(
            f"{file.path}: {name} is stored as {tensor.dtype}, which is not read; read are BF16, F16, F32"
        )
    n_cols = tensor.shape[-1] if tensor.shape else 1
    rows = file.bytes_of(name).reshape(-1, n_cols * tensor.element_type.block_bytes)
    return stored(rows, n_cols, tensor.element_type, f"{file.path}: {name}")


def _all_tensors(shards: Iterable[Mapping[str, TensorFile]]) -> Iterable[tuple[str, TensorFile]]:
    return (item for shard in shards for item in shard.items())
