"""Tensors of ours that a Hugging Face directory stores as one: see Fused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from dllama.checkpoint.hf.mxfp4 import stacked_fp4_recipes
from dllama.checkpoint.hf.parts import Parts
from dllama.checkpoint.recipes import Recipe, part, stack, stored, transposed
from dllama.errors import ModelFileError, UnsupportedModelError
from dllama.families import Fused
from dllama.formats.safetensors import SafetensorsFile
from dllama.sharding import Tensor


def fused_recipe(
    file: SafetensorsFile, name: str, place: Fused, wanted: Tensor, all_of: Sequence[Tensor]
) -> Recipe:
    """`wanted`, one of `all_of`, which are stored in this order as the tensor `name` of `file`.

    Raises ModelFileError where that has another shape, UnsupportedModelError where it has another type, naming both.
    """
    n_all = sum(_length(tensor) for tensor in all_of)
    shape = _shape(wanted, n_all, is_transposed=place.transposed)
    found = file.tensors[name]
    if found.shape != shape:
        raise ModelFileError(
            f"{file.path}: {name} has the shape {list(found.shape)}, config.json asks for {list(shape)}"
        )
    dtype = found.element_type
    if dtype is None:
        raise UnsupportedModelError(
            f"{file.path}: {name} is stored as {found.dtype}, which is not read; read are BF16, F16, F32"
        )
    own = _own(place, wanted, all_of)
    where = f"{file.path}: {name}"
    data = file.bytes_of(name)
    if wanted.is_table:  # columns: of a table of biases
        return transposed(part(transposed(stored(data.reshape(shape[0], -1), shape[1], dtype, where)), own))
    rows = data.reshape(wanted.n_stacked, shape[-2], -1)
    matrices = [stored(each, shape[-1], dtype, where) for each in rows]
    return stack([part(transposed(each) if place.transposed else each, own) for each in matrices])


def fused_fp4_recipe(
    file_of: Mapping[str, SafetensorsFile], name: str, place: Fused, wanted: Tensor, all_of: Sequence[Tensor]
) -> Recipe:
    """The same where blocks of MXFP4 are stored, which are never transposed. Raises the same errors."""
    n_all = sum(_length(tensor) for tensor in all_of)
    matrices = stacked_fp4_recipes(Parts(file_of, name), wanted.n_stacked, n_all, wanted.n_cols)
    own = _own(place, wanted, all_of)
    return stack([part(each, own) for each in matrices])


def _own(place: Fused, wanted: Tensor, all_of: Sequence[Tensor]) -> range:
    """Which rows, of those of all, are `wanted`."""
    if place.interleaved:
        return range(all_of.index(wanted), sum(_length(tensor) for tensor in all_of), len(all_of))
    first = sum(_length(tensor) for tensor in all_of[: all_of.index(wanted)])
    return range(first, first + _length(wanted))


def _length(tensor: Tensor) -> int:
    """How much of what they share is one tensor's."""
    return tensor.n_cols if tensor.is_table else tensor.n_rows


def _shape(wanted: Tensor, n_all: int, *, is_transposed: bool) -> tuple[int, ...]:
    if wanted.is_table:
        return wanted.shape[0], n_all
    matrix = (wanted.n_cols, n_all) if is_transposed else (n_all, wanted.n_cols)
    return (*wanted.shape[:-2], *matrix)
