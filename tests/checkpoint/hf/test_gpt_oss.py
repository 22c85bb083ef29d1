"""gpt-oss as it is published: experts in MXFP4, the rows of gate and up projections in turn; all else in BF16."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from dllama.checkpoint import open_checkpoint
from dllama.dtypes import ElementType
from dllama.errors import ModelFileError
from support import quantised as make

GOLDEN = Path(__file__).resolve().parents[2] / "goldens" / "gpt-oss"
SAID = {"quant_method": "mxfp4", "modules_to_not_convert": ["model.layers.*.self_attn", "lm_head"]}
EXPERTS = ("layers.0.experts_gate", "layers.1.experts_up", "layers.1.experts_down")


def published(tmp_path: Path) -> tuple[Path, Path]:
    """The golden's model with its experts as blocks, and what these mean, in F32."""
    blocks: make.Stored = {}
    meant: make.Stored = {}
    for name, (dtype, shape, data) in make.read_safetensors(GOLDEN / "model.safetensors").items():
        if len(shape) != 3:
            blocks[name] = meant[name] = (dtype, shape, data)
            continue
        values = (np.frombuffer(data, np.uint16).astype(np.uint32) << 16).view(np.float32).reshape(shape)
        parts = [make.fp4("packed")(each.T) for each in values]
        nibbles = b"".join(stored["weight_packed"][2] for stored, _ in parts)
        n, n_rows, n_blocks = shape[0], shape[2], shape[1] // 32
        blocks[name + "_blocks"] = ("U8", [n, n_rows, n_blocks, 16], nibbles)
        scales = b"".join(stored["weight_scale"][2] for stored, _ in parts)
        blocks[name + "_scales"] = ("U8", [n, n_rows, n_blocks], scales)
        meant[name] = make.entry(np.stack([values.T for _, values in parts]))
    config = json.loads((GOLDEN / "config.json").read_text())
    for folder, tensors, more in (("blocks", blocks, {"quantization_config": SAID}), ("meant", meant, {})):
        (tmp_path / folder).mkdir()
        make.write_safetensors(tmp_path / folder / "model.safetensors", tensors)
        (tmp_path / folder / "config.json").write_text(json.dumps(config | more))
    return tmp_path / "blocks", tmp_path / "meant"


def test_experts_are_exactly_as_stored(tmp_path: Path) -> None:
    directory, meant = published(tmp_path)
    checkpoint = open_checkpoint(directory)
    for name in EXPERTS:
        assert checkpoint.tensors[name].dtype is checkpoint.recipe(name).dtype is ElementType.MXFP4
    assert checkpoint.tensors["layers.0.q"].dtype is ElementType.Q80
    got, wanted = open_checkpoint(directory, ElementType.F32), open_checkpoint(meant, ElementType.F32)
    for name, tensor in wanted.tensors.items():
        whole = (0, tensor.stacked_rows), (0, tensor.n_cols)
        np.testing.assert_array_equal(
            got.read(name, *whole).view(np.float32), wanted.read(name, *whole).view(np.float32), err_msg=name
        )


@pytest.mark.parametrize(
    ("part", "fault"),
    [
        ("gate_up_proj_scales", "is missing"),
        ("down_proj_blocks", "has the shape"),
        ("down_proj_scales", "has the shape"),
    ],
)
def test_bad_input(part: str, fault: str, tmp_path: Path) -> None:
    directory, _ = published(tmp_path)
    file = directory / "model.safetensors"
    tensors = make.read_safetensors(file)
    name = f"model.layers.1.mlp.experts.{part}"
    dtype, shape, data = tensors.pop(name)
    if fault != "is missing":
        tensors[name] = dtype, [shape[0] - 1, *shape[1:]], data[: len(data) // shape[0] * (shape[0] - 1)]
    make.write_safetensors(file, tensors)
    with pytest.raises(ModelFileError, match=f"{name} {fault}"):
        open_checkpoint(directory)
