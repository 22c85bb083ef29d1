"""Tensors of a Hugging Face directory."""

from __future__ import annotations

import logging
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
from dllama.checkpoint.hf.fused import fused_recipe
from dllama.checkpoint.hf.quantised import quantised_message, scheme_of_tensors
from dllama.checkpoint.recipes import Recipe, halves_to_pairs, plus, stack, stored
from dllama.checkpoint.stored_part import has_shape, part_recipe, stored_shape
from dllama.checkpoint.weight_types import model_of_type
from dllama.checkpoint.zero_biases import is_zero_bias
from dllama.dtypes import ElementType
from dllama.errors import ModelFileError, UnsupportedModelError
from dllama.families import StoredPart
from dllama.formats.safetensors import SafetensorsFile, open_safetensors_directory
from dllama.model import Attention, RopeStyle
from dllama.sharding import Tensor

CONFIG_FILE = "config.json"

_log = logging.getLogger(__name__)

_COMPARED_ROWS = 64
"""Enough to tell a copy from another head."""


class HfSource:
    """TensorSource of a directory with config.json and safetensors, whose weights become `weight_type`."""

    def __init__(self, directory: Path, weight_type: ElementType) -> None:
        """Opens every file and checks every tensor's place, shape and type.

        Raises ModelFileError or UnsupportedModelError naming the file, and the key or the tensor.
        """
        model = read_hf_config(directory / CONFIG_FILE)
        self.model = model_of_type(model.config, weight_type)
        self._family = model.family
        self._file_of = open_safetensors_directory(directory)
        self._directory = directory
        self._tensors = {tensor.name: tensor for tensor in self.model}
        self._tied_head = model.tied_head and self._in_files("head") not in self._file_of
        for tensor in self._tensors.values():
            if self._fused(tensor) is None:
                for name in self._stored_names(tensor):
                    self._check(name, tensor)
        self._refuse_what_would_be_missed()
        if model.tied_head and not self._tied_head:
            self._say_that_the_stored_head_counts()

    def recipe(self, name: str) -> Recipe:
        matrix = self._stored(name)
        is_plain = name.endswith(tuple(f".{norm}" for norm in self._family.plain_norms))
        if self._family.norms_add_one and name.endswith("_norm") and not is_plain:
            matrix = plus(matrix, 1.0)
        if not name.endswith((".q", ".k", ".q_bias", ".k_bias", ".q_norm", ".k_norm")):
            return matrix
        mixer = self.model.config.layer(int(name.split(".")[1])).mixer
        assert isinstance(mixer, Attention)
        rope = mixer.rope
        if rope is None or rope.style is not RopeStyle.ADJACENT:
            return matrix
        return halves_to_pairs(matrix, mixer.head_dim, rope.n_rotated)

    def _stored(self, name: str) -> Recipe:
        tensor, of = self._tensors[name], self._part(name)
        fused = self._fused(tensor) if of is None else None
        if fused is not None:
            return fused
        if of is None:
            names, n_cols = self._stored_names(tensor), tensor.n_cols
            return stack([self._matrix(each, tensor.n_rows, n_cols) for each in names])
        (stored_name,) = self._stored_names(tensor)
        return part_recipe(of, tensor, lambda n_rows, n_cols: self._matrix(stored_name, n_rows, n_cols))

    def _matrix(self, name: str, n_rows: int, n_cols: int) -> Recipe:
        """What is stored under that name."""
        file = self._file_of[name]
        dtype = file.tensors[name].element_type
        assert dtype is not None  # _check has seen to it
        return stored(file.bytes_of(name).reshape(n_rows, -1), n_cols, dtype, f"{file.path}: {name}")

    def _part(self, name: str) -> StoredPart | None:
        """Of which larger tensor our `name` is a part in these files, if it is."""
        prefix, _, rest = name.partition(".")
        if prefix != "layers":
            return None
        layer, _, part = rest.partition(".")
        of = self._family.part_of(self.model.config.layer(int(layer)), part)
        return of if of and name_in_files(of.name(layer), self._file_of) in self._file_of else None

    def _fused(self, tensor: Tensor) -> Recipe | None:
        """Raises ModelFileError or UnsupportedModelError where it is not stored as it should be."""
        place = self._family.fused(tensor.name)
        if place is None:
            return None
        prefix = tensor.name.rpartition(".")[0]
        (name,) = self._stored_names(tensor)
        file = self._file_of.get(name)
        if file is None:
            raise self._missing(name)
        others = [self._tensors[f"{prefix}.{other}"] for other in place.of]
        return fused_recipe(file, name, place, tensor, others)

    def check(self) -> None:
        for file in self._files():
            file.check()

    def check_tensor(self, name: str) -> None:
        for file in {self._file_of[each] for each in self._stored_names(self._tensors[name])}:
            file.check()

    def let_go(self) -> None:
        for file in self._files():
            file.let_go()

    def close(self) -> None:
        for file in self._files():
            file.close()

    def _files(self) -> set[SafetensorsFile]:
        return set(self._file_of.values())

    def _stored_names(self, tensor: Tensor) -> list[str]:
        """One, or one for each matrix of a stack."""
        of = self._part(tensor.name)
        if of is not None:
            return [name_in_files(of.name(tensor.name.split(".")[1]), self._file_of)]
        name = "embedding" if tensor.name == "head" and self._tied_head else tensor.name
        if self._family.fused(name) is not None:
            return [self._in_files(name)]
        return [self._in_files(name, number) for number in range(tensor.n_stacked)]

    def _in_files(self, name: str, number: int = 0) -> str:
        return name_in_files(self._family.hf_name(name, number), self._file_of)

    def _check(self, name: str, wanted: Tensor) -> None:
        file = self._file_of.get(name)
        scheme = scheme_of_tensors(name, self._file_of)
        if scheme is not None:
            raise UnsupportedModelError(quantised_message(self._directory, scheme))
        if file is None:
            raise self._missing(name)
        tensor, of = file.tensors[name], self._part(wanted.name)
        expected = wanted.shape[-2:]
        if of is not None:
            expected, is_as_expected = stored_shape(of, wanted), has_shape(tensor.shape, of, wanted)
        else:
            is_as_expected = tensor.shape in (expected, (wanted.n_rows, wanted.n_cols))
        if not is_as_expected:
            raise ModelFileError(
                f"{file.path}: {name} has the shape {list(tensor.shape)}, config.json asks for"
                f" {list(expected)}"
            )
        if tensor.element_type is None:
            raise UnsupportedModelError(
                f"{file.path}: {name} is stored as {tensor.dtype}, which is not read; read are BF16, F16, F32"
            )

    def _missing(self, name: str) -> ModelFileError:
        return ModelFileError(f"{self._directory}: the tensor {name} is in none of the safetensors files")

    def _refuse_what_would_be_missed(self) -> None:
        """A tensor that is no part of the forward pass here, and would be in the model's own."""
        known = {name for tensor in self._tensors.values() for name in self._stored_names(tensor)}
        known.add(self._in_files("head"))
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

    def _predicts_further(self, name: str) -> bool:
        return self._family.predicts_further and layer_of(name) >= self.model.config.n_layers

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
