"""How a matrix of a Hugging Face directory is read, by the tensors that stand for it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from dllama.checkpoint.hf.awq import awq_recipe
from dllama.checkpoint.hf.compressed_tensors import bytes_recipe, packed_recipe
from dllama.checkpoint.hf.fp8 import fp8_recipe
from dllama.checkpoint.hf.gptq import gptq_recipe
from dllama.checkpoint.hf.mlx import mlx_recipe
from dllama.checkpoint.hf.mxfp4 import FP4_PARTS, modelopt_recipe, packed_fp4_recipe
from dllama.checkpoint.hf.parts import Parts
from dllama.checkpoint.hf.quantised import Quantisation
from dllama.checkpoint.recipes import Recipe
from dllama.formats.safetensors import SafetensorsFile

_BY_GPTQ = Quantisation("GPTQ")
"""What old files of GPTQ and AWQ, of which config.json says nothing, would say."""

_PARTS = (
    "weight", "qweight", "qzeros", "scales", "g_idx", "biases", "weight_packed", "weight_scale", "weight_scale_inv",
    "weight_scale_2", "weight_global_scale", "weight_zero_point", "weight_shape", "weight_g_idx", "input_scale",
    "input_global_scale", "input_zero_point", "output_scale", "activation_scale",
)  # fmt: skip
"""Tensors that belong to a quantised matrix; the last ones are for activations in few bits, which they are not here."""


_EXPERT = re.compile(r"(.*)\.experts\.(\d{1,9})\.(\w+)\.weight")
_MLX_NAMES = {"w1": "gate_proj", "w2": "down_proj", "w3": "up_proj"}
"""What Mixtral calls otherwise."""

_WHOLE = {".qweight": ".weight", ".weight_packed": ".weight", "_blocks": ""}
"""How a tensor's name ends, and how that of the matrix does that it is most of."""


def quantised_matrix(
    file_of: Mapping[str, SafetensorsFile], name: str, n_rows: int, n_cols: int, said: Quantisation | None
) -> Recipe | None:
    """The matrix `name` (`....weight`), if it is stored in a quantised form that is read; None otherwise. `said` is
    what config.json says. Raises ModelFileError or UnsupportedModelError, naming file and tensor."""
    parts = _parts(file_of, name)
    said = said or _BY_GPTQ
    if parts.has("qweight"):
        if parts.length("qweight", 0) == n_cols:
            return awq_recipe(parts, n_rows, n_cols)
        return gptq_recipe(parts, n_rows, n_cols, zeros_less_one=said.zeros_less_one)
    if parts.has("weight_packed"):
        is_fp4 = parts.tensor("weight_packed").dtype == "U8"
        return (packed_fp4_recipe if is_fp4 else packed_recipe)(parts, n_rows, n_cols)
    if not parts.has("weight"):
        return None
    dtype = parts.tensor("weight").dtype
    if dtype == "F8_E4M3":
        return fp8_recipe(parts, n_rows, n_cols, said.block)
    if dtype == "I8" and parts.has("weight_scale"):
        return bytes_recipe(parts, n_rows, n_cols)
    if dtype == "U32" and parts.has("scales"):
        return mlx_recipe(parts, n_rows, n_cols)
    if dtype == "U8" and parts.has("weight_scale_2"):
        return modelopt_recipe(parts, n_rows, n_cols)
    return None


def parts_of(file_of: Mapping[str, SafetensorsFile], name: str) -> Iterator[str]:
    """The tensors that are there of the matrix `name` (`....weight`), or of what has another name."""
    if not name.endswith("weight"):
        return (part for part in (name, *(name + end for end in FP4_PARTS)) if part in file_of)
    stem = _parts(file_of, name).stem
    return (stem + part for part in _PARTS if stem + part in file_of)


def _parts(file_of: Mapping[str, SafetensorsFile], name: str) -> Parts:
    """What the matrix `name` is stored as; MLX stores all experts' matrices as one tensor of three dimensions."""
    expert = None if name in file_of else _EXPERT.fullmatch(name)
    if expert is not None:
        stem = f"{expert[1]}.switch_mlp.{_MLX_NAMES.get(expert[3], expert[3])}."
        if stem + "weight" in file_of:
            return Parts(file_of, stem, int(expert[2]))
    return Parts(file_of, name.removesuffix("weight"))


def names_of_matrices(file_of: Mapping[str, SafetensorsFile]) -> set[str]:
    """The names of all tensors, and of the matrices that several stand for."""
    names = set(file_of)
    for name in file_of:
        for part, whole in _WHOLE.items():
            if name.endswith(part):
                names.add(name.removesuffix(part) + whole)
    return names
