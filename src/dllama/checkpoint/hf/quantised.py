"""Weights that come quantised already: what config.json says of them, and the names of schemes that are not read.

Which matrices are quantised and in how many bits their tensors say themselves (hf/matrices.py), so lists of modules
that are not (modules_to_not_convert, ignore) are not needed.
"""

from __future__ import annotations

import dataclasses
import reprlib
from collections.abc import Collection, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from dllama.errors import UnsupportedModelError

_READ: Mapping[str, str] = MappingProxyType(
    {
        "gptq": "GPTQ",
        "awq": "AWQ",
        "fp8": "FP8",
        "fbgemm_fp8": "FP8",
        "compressed-tensors": "compressed-tensors (llm-compressor)",
        "mxfp4": "MXFP4",
        "modelopt": "NVIDIA ModelOpt",
        "auto-round": "AutoRound",
        "intel/auto-round": "AutoRound",
    }
)
_NOT_READ: Mapping[str, str] = MappingProxyType(
    {
        "bitsandbytes": "bitsandbytes",
        "exl2": "EXL2",
        "exl3": "EXL3",
        "hqq": "HQQ",
        "aqlm": "AQLM",
        "torchao": "torchao",
        "quanto": "Quanto",
        "eetq": "EETQ",
        "bitnet": "BitNet",
        "vptq": "VPTQ",
        "higgs": "HIGGS",
    }
)
"""`quant_method` of a quantization_config."""

_KNOWN_VALUES: Mapping[str, Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "gptq": {"checkpoint_format": ("gptq", "gptq_v2")},
        "awq": {"version": ("gemm",), "backend": ("autoawq",)},
        "compressed-tensors": {
            "format": (
                "pack-quantized", "int-quantized", "float-quantized", "naive-quantized", "nvfp4-pack-quantized",
                "mxfp4-pack-quantized", "mixed-precision", "dense",
            ),
        },
        "auto-round": {"packing_format": ("auto_round:auto_gptq", "auto_round:auto_awq")},
        "intel/auto-round": {"packing_format": ("auto_round:auto_gptq", "auto_round:auto_awq")},
    }
)  # fmt: skip
"""Ways of storing, in small letters; others would be misread."""

_PARTS = {"q_weight": "EXL2", "trellis": "EXL3", "codes": "AQLM"}
"""What stands in place of a matrix's `weight` in schemes that are not read."""

_COMPANIONS = {
    "scales": "MLX",
    "weight_scale": "FP8",
    "weight_scale_inv": "FP8",
    "weight.absmax": "bitsandbytes",
    "SCB": "bitsandbytes",
}
"""What stands beside a `weight` that is not quantised in a way that is read."""

_BLOCK = (128, 128)


@dataclasses.dataclass(frozen=True)
class Quantisation:
    """What config.json says of quantised weights."""

    scheme: str
    """Its name, for people."""
    zeros_less_one: bool = True
    """Of GPTQ: whether 1 has been taken from the zeros that are stored."""
    block: tuple[int, int] = _BLOCK
    """Of FP8: rows and columns that share a scale, where it is a block that does."""


def quantisation_of(values: Mapping[str, Any], path: Path) -> Quantisation | None:
    """What the config.json at `path` says; None for weights as they were trained. Raises UnsupportedModelError for what
    is not read."""
    said = values.get("quantization_config")
    if said is None and isinstance(values.get("quantization"), dict):
        return Quantisation("MLX")
    if said is None:
        return None
    if not isinstance(said, dict):
        raise UnsupportedModelError(quantised_message(path, "an unknown scheme"))
    method = said.get("quant_method")
    if method is None:
        return _nameless(said, path)
    name = str(method).lower()
    if name not in _READ:
        raise UnsupportedModelError(quantised_message(path, _NOT_READ.get(name, reprlib.repr(method))))
    _refuse_other_ways(name, said, path)
    return Quantisation(_READ[name], said.get("checkpoint_format") != "gptq_v2", _block(said))


def scheme_of_tensors(name: str, names: Collection[str]) -> str | None:
    """The scheme, one that is not read, by which the matrix `name` (`....weight`) is stored among `names`, or None."""
    stem = name.removesuffix("weight")
    for table in (_PARTS, _COMPANIONS):
        for part, scheme in table.items():
            if stem + part in names:
                return scheme
    return None


def quantised_message(where: Path, scheme: str) -> str:
    return (
        f"{where}: its weights are quantised already, by {scheme}, which is not read; take the model's original"
        " in bf16, f16 or f32"
    )


def _nameless(said: Mapping[str, Any], path: Path) -> Quantisation:
    if {"group_size", "bits"} <= said.keys():
        return Quantisation("MLX")
    is_bitsandbytes = any(key.startswith("load_in_") for key in said)
    raise UnsupportedModelError(
        quantised_message(path, "bitsandbytes" if is_bitsandbytes else "an unknown scheme")
    )


def _refuse_other_ways(name: str, said: Mapping[str, Any], path: Path) -> None:
    for key, known in _KNOWN_VALUES.get(name, {}).items():
        value = said.get(key)
        if value is not None and str(value).lower() not in known:
            scheme = f"{_READ[name]} with {key} {reprlib.repr(value)}"
            raise UnsupportedModelError(quantised_message(path, scheme))
    sparsity = said.get("sparsity_config")
    if isinstance(sparsity, dict) and sparsity.get("format", "dense") != "dense":
        scheme = f"{_READ[name]} with sparse weights ({reprlib.repr(sparsity.get('format'))})"
        raise UnsupportedModelError(quantised_message(path, scheme))
    if said.get("transform_config"):
        raise UnsupportedModelError(quantised_message(path, f"{_READ[name]} with a transform_config"))


def _block(said: Mapping[str, Any]) -> tuple[int, int]:
    """Rows and columns of a block of FP8, where they are said."""
    groups = said.get("config_groups")
    schemes = list(groups.values()) if isinstance(groups, dict) else []
    weights = [scheme.get("weights") for scheme in schemes if isinstance(scheme, dict)]
    of_groups = [each.get("block_structure") for each in weights if isinstance(each, dict)]
    for block in (said.get("weight_block_size"), *of_groups):
        if isinstance(block, list) and len(block) == 2 and all(type(n) is int and n > 0 for n in block):
            return block[0], block[1]
    return _BLOCK
