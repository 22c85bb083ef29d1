"""MLX's mixtures of experts: the matrices of all experts are one tensor, and so are their scales."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from dllama.checkpoint import open_checkpoint
from dllama.dtypes import ElementType
from dllama.errors import ModelFileError
from support import quantised as make

GOLDEN = Path(__file__).resolve().parents[2] / "goldens" / "qwen3-moe"


def mlx_folder(tmp_path: Path) -> tuple[Path, Path]:
    """The golden's model with its experts as MLX has them, and what these mean."""
    quantised, meant = make.quantised_copy(
        GOLDEN,
        tmp_path,
        lambda name: make.mlx() if ".experts." in name else None,
        {"quantization": {"bits": 4}},
    )
    file = quantised / "model.safetensors"
    stacks: dict[str, list[tuple[int, tuple[str, list[int], bytes]]]] = {}
    others: make.Stored = {}
    for name, each in make.read_safetensors(file).items():
        found = re.fullmatch(r"(.*)\.experts\.(\d+)\.(\w+\.\w+)", name)
        if found:
            stacks.setdefault(f"{found[1]}.switch_mlp.{found[3]}", []).append((int(found[2]), each))
        else:
            others[name] = each
    for name, experts in stacks.items():
        parts = [each for _, each in sorted(experts)]
        dtype, shape, _ = parts[0]
        others[name] = dtype, [len(parts), *shape], b"".join(data for _, _, data in parts)
    make.write_safetensors(file, others)
    return quantised, meant


def test_experts(tmp_path: Path) -> None:
    quantised, meant = mlx_folder(tmp_path)
    checkpoint = open_checkpoint(quantised)
    assert checkpoint.tensors["layers.0.experts_down"].dtype is ElementType.Q41
    got, wanted = open_checkpoint(quantised, ElementType.F32), open_checkpoint(meant, ElementType.F32)
    for name, tensor in wanted.tensors.items():
        whole = (0, tensor.stacked_rows), (0, tensor.n_cols)
        np.testing.assert_array_equal(got.read(name, *whole), wanted.read(name, *whole), err_msg=name)


def test_an_expert_too_few(tmp_path: Path) -> None:
    quantised, _ = mlx_folder(tmp_path)
    file = quantised / "model.safetensors"
    tensors = make.read_safetensors(file)
    name = "model.layers.1.mlp.switch_mlp.up_proj.scales"
    dtype, shape, data = tensors[name]
    make.write_safetensors(file, tensors | {name: (dtype, [7, *shape[1:]], data[: len(data) // 8 * 7])})
    with pytest.raises(ModelFileError, match="more than 7 matrices are asked for") as caught:
        open_checkpoint(quantised)
    assert name in str(caught.value)
