"""Weights that come quantised already, by their schemes' names, for messages: none of them is read."""

from __future__ import annotations

import reprlib
from collections.abc import Collection
from pathlib import Path
from typing import Any

_METHODS = {
    "gptq": "GPTQ",
    "awq": "AWQ",
    "bitsandbytes": "bitsandbytes",
    "fp8": "FP8",
    "fbgemm_fp8": "FP8",
    "compressed-tensors": "compressed-tensors (llm-compressor)",
    "mxfp4": "MXFP4",
    "modelopt": "NVIDIA ModelOpt",
    "exl2": "EXL2",
    "exl3": "EXL3",
    "hqq": "HQQ",
    "aqlm": "AQLM",
    "torchao": "torchao",
    "auto-round": "AutoRound",
    "intel/auto-round": "AutoRound",
    "quanto": "Quanto",
    "eetq": "EETQ",
    "bitnet": "BitNet",
    "vptq": "VPTQ",
    "higgs": "HIGGS",
}
"""`quant_method` of a quantization_config."""

_PARTS = {
    "g_idx": "GPTQ",
    "qweight": "GPTQ or AWQ",
    "q_weight": "EXL2",
    "trellis": "EXL3",
    "codes": "AQLM",
    "weight_packed": "compressed-tensors (llm-compressor)",
}
"""What stands in place of a matrix's `weight`."""

_COMPANIONS = {
    "scales": "MLX",
    "weight_scale": "FP8",
    "weight_scale_inv": "FP8",
    "weight.absmax": "bitsandbytes",
    "SCB": "bitsandbytes",
}
"""What stands beside it."""


def scheme_of_config(values: Any) -> str | None:
    """The scheme that a config.json says its weights have; None for weights as they were trained."""
    method = values.get("quantization_config")
    if method is None and isinstance(values.get("quantization"), dict):
        return "MLX"
    if method is None:
        return None
    name = method.get("quant_method") if isinstance(method, dict) else None
    if name is None and isinstance(method, dict) and {"group_size", "bits"} <= method.keys():
        return "MLX"
    if name is None and isinstance(method, dict) and any(key.startswith("load_in_") for key in method):
        return "bitsandbytes"
    return "an unknown scheme" if name is None else _METHODS.get(str(name).lower(), reprlib.repr(name))


def scheme_of_tensors(name: str, names: Collection[str]) -> str | None:
    """The scheme by which the matrix `name` (`....weight`) is stored among `names`, or None."""
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
