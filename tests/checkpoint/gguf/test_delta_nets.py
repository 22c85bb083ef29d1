"""Delta nets of a GGUF file: value heads in another order, in matrices of any type."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import gguf
import numpy as np
import pytest

from dllama.checkpoint import open_checkpoint
from dllama.checkpoint.recipes import reordered, stored
from dllama.dtypes import ElementType
from dllama.errors import ModelFileError, UnsupportedModelError
from dllama.kernels import oracle
from support.gguf_delta import converted
from support.gguf_model import write_model
from support.local_cluster import GOLDENS

GOLDEN = GOLDENS / "qwen3-5"
OUT = "blk.0.ssm_out.weight"


def test_columns_of_heads_that_are_whole_blocks_stay_as_they_are() -> None:
    random = np.random.default_rng(1)
    values = random.standard_normal((3, 8 * 64)).astype(np.float32)
    heads = np.array([2, 0, 3, 1, 7, 5, 4, 6])
    which = np.add.outer(64 * heads, np.arange(64)).ravel()
    for dtype in (ElementType.Q40, ElementType.Q80, ElementType.IQ4NL, ElementType.F16):
        rows = oracle.encode(dtype, values)
        recipe = reordered(stored(rows, 512, dtype, "heads"), which)
        wanted = oracle.decode(dtype, rows, 512)[:, which]
        for cols in (range(512), range(64, 256), range(32, 96)):
            taken = recipe.take(range(1, 3), cols)
            decoded = oracle.decode(dtype, np.ascontiguousarray(taken), len(cols))
            np.testing.assert_array_equal(decoded, wanted[1:3, cols.start : cols.stop])


def test_heads_within_blocks_become_q80(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """As those of 24 are in blocks of 32."""
    plain = open_checkpoint(write_model(GOLDEN, tmp_path / "plain.gguf"))
    values = converted(GOLDEN, json.loads((GOLDEN / "config.json").read_text()))[OUT]
    blocks = gguf.quantize(values, gguf.GGMLQuantizationType.Q8_0)
    with caplog.at_level(logging.WARNING):
        model = open_checkpoint(write_model(GOLDEN, tmp_path / "model.gguf", tensors={OUT: blocks}))
    assert "1 matrices have heads in another order" in caplog.text
    spec = model.tensors["layers.0.delta_out"]
    assert spec.dtype is ElementType.Q80
    assert plain.tensors["layers.0.delta_out"].dtype is ElementType.F32
    everything = (0, spec.n_rows), (0, spec.n_cols)
    got = oracle.decode(ElementType.Q80, model.read("layers.0.delta_out", *everything), spec.n_cols)
    wanted = plain.read("layers.0.delta_out", *everything).view(np.float32)
    assert np.abs(got - wanted).max() <= 2 / 127 * np.abs(wanted).max()


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("blk.0.attn_qkv.weight", (256, 63)),
        ("blk.1.ssm_conv1d.weight", (256, 3)),
        ("blk.2.ssm_a", (7,)),
        ("blk.3.attn_q.weight", (511, 64)),
    ],
)
def test_a_tensor_of_another_shape_is_named(name: str, shape: tuple[int, ...], tmp_path: Path) -> None:
    path = write_model(GOLDEN, tmp_path / "model.gguf", tensors={name: np.zeros(shape, np.float32)})
    with pytest.raises(ModelFileError, match=f"{name} has the shape"):
        open_checkpoint(path)


@pytest.mark.parametrize("key", ["state_size", "group_count", "time_step_rank", "inner_size", "conv_kernel"])
def test_numbers_that_cannot_be_are_named(key: str, tmp_path: Path) -> None:
    for value in (None, 0, 1 << 31):
        path = write_model(GOLDEN, tmp_path / f"{value}.gguf", changes={f"qwen35.ssm.{key}": value})
        with pytest.raises(ModelFileError) as caught:
            open_checkpoint(path)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_layer_that_predicts_further_is_left_aside(tmp_path: Path) -> None:
    more = {"blk.4.nextn.eh_proj.weight": np.ones((64, 128), np.float32)}
    changes = {"qwen35.nextn_predict_layers": 1, "qwen35.block_count": 5}
    plain = open_checkpoint(write_model(GOLDEN, tmp_path / "plain.gguf"))
    model = open_checkpoint(write_model(GOLDEN, tmp_path / "model.gguf", changes=changes, tensors=more))
    assert model.model == plain.model
    stray = {"blk.3.nextn.eh_proj.weight": np.ones((64, 128), np.float32)}
    with pytest.raises(UnsupportedModelError, match="nextn"):
        open_checkpoint(write_model(GOLDEN, tmp_path / "stray.gguf", tensors=stray))
