"""Tensors of a Hugging Face directory."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from dllama.checkpoint.hf.config import read_hf_config
from dllama.checkpoint.hf.extras import (
    is_bookkeeping,
    is_in_decoder,
    layer_of,
    name_in_files,
    unused_sentence,
)
from dllama.checkpoint.hf.fused import fused_fp4_recipe, fused_recipe
from dllama.checkpoint.hf.matrices import names_of_matrices, parts_of, quantised_matrix
from dllama.checkpoint.hf.quantised import quantised_message, scheme_of_tensors
from dllama.checkpoint.hf.types import DEFAULT_WEIGHT_TYPE, as_they_come, is_quantised
from dllama.checkpoint.recipes import Recipe, as_type, halves_to_pairs, plus, stack, stored
from dllama.checkpoint.stored_part import has_shape, part_recipe, stored_shape
from dllama.checkpoint.weight_types import model_of_type
from dllama.checkpoint.zero_biases import is_zero_bias
from dllama.dtypes import ElementType
from dllama.errors import ModelFileError, UnsupportedModelError
from dllama.families import StoredPart
from dllama.formats.safetensors import SafetensorsFile, open_safetensors_directory
from dllama.model import Attention, ModelConfig, ModelSpec, RopeStyle
from dllama.sharding import Tensor

CONFIG_FILE = "config.json"

_log = logging.getLogger(__name__)

_COMPARED_ROWS = 64
"""Enough to tell a copy from another head."""


class HfSource:
    """TensorSource of a directory with config.json and safetensors."""

    def __init__(self, directory: Path, weight_type: ElementType | None) -> None:
        """Opens every file and checks every tensor's place, shape and type.

        `weight_type`: what all matrices become. None: where they come quantised each has the type that holds it best,
        else all become the default. Raises ModelFileError or UnsupportedModelError naming the file, and the key or the
        tensor.
        """
        model = read_hf_config(directory / CONFIG_FILE)
        self._family, self._config, self._quantisation = model.family, model.config, model.quantisation
        self._file_of = open_safetensors_directory(directory)
        self._names = names_of_matrices(self._file_of)
        self._directory = directory
        self._tied_head = model.tied_head and self._in_files("head") not in self._names
        self._tensors = {tensor.name: tensor for tensor in ModelSpec.uniform(model.config, ElementType.F32)}
        self._matrices: dict[tuple[str, int, int], Recipe] = {}
        for tensor in self._tensors.values():
            if self._fused(tensor) is None:
                self._matrices |= {
                    (name, *self._shape(tensor)): self._matrix(name, tensor)
                    for name in self._stored_names(tensor)
                }
        self.model = self._with_types(model.config, weight_type)
        self._tensors = {tensor.name: tensor for tensor in self.model}
        self._refuse_what_would_be_missed()
        if model.tied_head and not self._tied_head:
            self._say_that_the_stored_head_counts()

    def recipe(self, name: str) -> Recipe:
        matrix = self._stored(self._tensors[name])
        is_plain = name.endswith(tuple(f".{norm}" for norm in self._family.plain_norms))
        if self._family.norms_add_one and name.endswith("_norm") and not is_plain:
            matrix = plus(matrix, 1.0)
        if not name.endswith((".q", ".k", ".q_bias", ".k_bias", ".q_norm", ".k_norm")):
            return matrix
        mixer = self.model.config.layer(int(name.split(".")[1])).mixer
        if not isinstance(mixer, Attention):
            return matrix
        rope = mixer.rope
        if rope is None or rope.style is not RopeStyle.ADJACENT or self._family.stores_pairs:
            return matrix
        return halves_to_pairs(matrix, mixer.head_dim, rope.n_rotated)

    def _stored(self, tensor: Tensor) -> Recipe:
        of = self._part(tensor.name)
        fused = self._fused(tensor) if of is None else None
        if fused is not None:
            return fused
        if of is None:
            matrices = [
                self._matrices[each, tensor.n_rows, tensor.n_cols] for each in self._stored_names(tensor)
            ]
            return stack(_of_one_type(matrices))
        (name,) = self._stored_names(tensor)
        return part_recipe(of, tensor, lambda n_rows, n_cols: self._matrices[name, n_rows, n_cols])

    def _part(self, name: str) -> StoredPart | None:
        """Of which larger tensor our `name` is a part in these files, if it is."""
        prefix, _, rest = name.partition(".")
        if prefix != "layers":
            return None
        layer, _, part = rest.partition(".")
        of = self._family.part_of(self._config.layer(int(layer)), part)
        return of if of and name_in_files(of.name(layer), self._names) in self._names else None

    def _fused(self, tensor: Tensor) -> Recipe | None:
        """Raises ModelFileError or UnsupportedModelError where it is not stored as it should be."""
        place = self._family.fused(tensor.name)
        if place is None:
            return None
        prefix = tensor.name.rpartition(".")[0]
        (name,) = self._stored_names(tensor)
        others = [self._tensors[f"{prefix}.{other}"] for other in place.of]
        if name not in self._file_of and name in self._names:
            return fused_fp4_recipe(self._file_of, name, place, tensor, others)
        file = self._file_of.get(name)
        if file is None:
            raise self._missing(name)
        return fused_recipe(file, name, place, tensor, others)

    def check(self) -> None:
        for file in self._files():
            file.check()

    def check_of(self, name: str) -> Callable[[], None]:
        files = {self._file_of[part] for part in self._parts(self._tensors[name])}

        def check() -> None:
            for file in files:
                file.check()

        return check

    def let_go(self) -> None:
        for file in self._files():
            file.let_go()

    def close(self) -> None:
        self._matrices.clear()
        for file in self._files():
            file.close()

    def _files(self) -> set[SafetensorsFile]:
        return set(self._file_of.values())

    def _stored_names(self, tensor: Tensor) -> list[str]:
        """One, or one for each matrix of a stack."""
        of = self._part(tensor.name)
        if of is not None:
            return [name_in_files(of.name(tensor.name.split(".")[1]), self._names)]
        name = "embedding" if tensor.name == "head" and self._tied_head else tensor.name
        if self._family.fused(name) is not None:
            return [self._in_files(name)]
        return [self._in_files(name, number) for number in range(tensor.n_stacked)]

    def _parts(self, tensor: Tensor) -> Iterator[str]:
        """The tensors of the files that it is read from."""
        for name in self._stored_names(tensor):
            yield from parts_of(self._file_of, name)

    def _in_files(self, name: str, number: int = 0) -> str:
        return name_in_files(self._family.hf_name(name, number), self._names)

    def _with_types(self, config: ModelConfig, weight_type: ElementType | None) -> ModelSpec:
        if weight_type is None:
            packed = [each for each in self._tensors.values() if each.is_packed and each.name != "embedding"]
            recipes = {tensor.name: self._stored(tensor) for tensor in packed}
            if any(map(is_quantised, recipes.values())):
                return as_they_come(config, recipes, self._directory)
        return model_of_type(config, weight_type or DEFAULT_WEIGHT_TYPE)

    def _shape(self, tensor: Tensor) -> tuple[int, int]:
        """Rows and columns of what is stored by each name."""
        of = self._part(tensor.name)
        return (tensor.n_rows, tensor.n_cols) if of is None else stored_shape(of, tensor)

    def _matrix(self, name: str, wanted: Tensor) -> Recipe:
        """What is stored under that name: a matrix, one of a stack, what several are parts of, or a vector."""
        of, (n_rows, n_cols) = self._part(wanted.name), self._shape(wanted)
        if not wanted.is_vector:
            matrix = quantised_matrix(self._file_of, name, n_rows, n_cols, self._quantisation)
            if matrix is not None:
                return matrix
        scheme = scheme_of_tensors(name, self._file_of)
        if scheme is not None:
            raise UnsupportedModelError(quantised_message(self._directory, scheme))
        file = self._file_of.get(name)
        if file is None:
            raise self._missing(name)
        tensor, expected = file.tensors[name], wanted.shape[-2:]
        is_as_expected = tensor.shape in (expected, (n_rows, n_cols))
        if of is not None:
            expected, is_as_expected = (n_rows, n_cols), has_shape(tensor.shape, of, wanted)
        if not is_as_expected:
            raise ModelFileError(
                f"{file.path}: {name} has the shape {list(tensor.shape)}, config.json asks for"
                f" {list(expected)}"
            )
        if tensor.element_type is None:
            raise UnsupportedModelError(
                f"{file.path}: {name} is stored as {tensor.dtype}, which is not read; read are BF16, F16, F32"
            )
        rows = file.bytes_of(name).reshape(n_rows, -1)
        return stored(rows, n_cols, tensor.element_type, f"{file.path}: {name}")

    def _missing(self, name: str) -> ModelFileError:
        return ModelFileError(f"{self._directory}: the tensor {name} is in none of the safetensors files")

    def _refuse_what_would_be_missed(self) -> None:
        """A tensor that is no part of the forward pass here, and would be in the model's own."""
        known = {part for tensor in self._tensors.values() for part in self._parts(tensor)}
        known |= set(parts_of(self._file_of, self._in_files("head")))
        unused = []
        for name, file in self._file_of.items():
            if name in known or is_bookkeeping(name):
                continue
            predicts = self._family.predicts_further and layer_of(name) >= self.model.config.n_layers
            if (
                is_in_decoder(name)
                and not predicts
                and not is_zero_bias(name, file.tensors[name].element_type, file.bytes_of)
            ):
                raise UnsupportedModelError(
                    f"{file.path}: {name} has no place in a {self.model.config.family} model of"
                    f" {self.model.config.n_layers} layers; without it the answers would be wrong"
                )
            unused.append(name)
        if unused:
            _log.warning("%s: %s", self._directory, unused_sentence(unused))

    def _say_that_the_stored_head_counts(self) -> None:
        head, embedding = self.recipe("head"), self.recipe("embedding")
        some, all_cols = range(0, head.n_rows, max(1, head.n_rows // _COMPARED_ROWS)), range(head.n_cols)
        if head.dtype is not embedding.dtype or not np.array_equal(
            head.take(some, all_cols), embedding.take(some, all_cols)
        ):
            _log.warning(
                "%s: the head is the one that is stored, though config.json says that it is the embedding"
                " (tie_word_embeddings): they differ",
                self._directory,
            )


def _of_one_type(matrices: Sequence[Recipe]) -> Sequence[Recipe]:
    """As they are, or as float32 where some experts only are quantised."""
    if len({matrix.dtype for matrix in matrices}) == 1:
        return matrices
    return [as_type(matrix, ElementType.F32) for matrix in matrices]
