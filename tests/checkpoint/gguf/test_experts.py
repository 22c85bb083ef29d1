"""Experts of a GGUF file: stacks, each of a type of its own."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest

from dllama.checkpoint import open_checkpoint
from dllama.dtypes import ElementType
from dllama.errors import ModelFileError, UnsupportedModelError
from dllama.formats.gguf import GgmlType
from support.gguf_model import write_model

MOE = Path(__file__).resolve().parents[2] / "goldens" / "qwen3-moe"


def test_gate_and_up_become_q80_where_they_differ(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def type_of(name: str) -> GgmlType:
        return GgmlType.Q4_0 if name == "layers.1.experts_up" else GgmlType.Q8_0

    path = write_model(MOE, tmp_path / "model.gguf", lambda name: GgmlType.Q8_0)
    with caplog.at_level(logging.WARNING):
        alike = open_checkpoint(path)
        assert not caplog.messages
        mixed = open_checkpoint(write_model(MOE, tmp_path / "mixed.gguf", type_of))
    assert "in 1 layers: in memory they are q80" in caplog.messages[-1]
    for name in ("layers.0.experts_up", "layers.1.experts_gate", "layers.1.experts_up"):
        assert mixed.tensors[name].dtype is ElementType.Q80
    spec = mixed.tensors["layers.1.experts_gate"]
    everything = (0, spec.stacked_rows), (0, spec.n_cols)
    got, wanted = (model.read("layers.1.experts_gate", *everything) for model in (mixed, alike))
    np.testing.assert_array_equal(got, wanted)


@pytest.mark.parametrize("key", ["expert_count", "expert_used_count", "expert_feed_forward_length"])
def test_numbers_that_cannot_be_are_named(key: str, tmp_path: Path) -> None:
    for value in (None, 0, 1 << 31):
        path = write_model(MOE, tmp_path / f"{value}.gguf", changes={f"qwen3moe.{key}": value})
        with pytest.raises((ModelFileError, UnsupportedModelError)) as caught:
            open_checkpoint(path)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)


def test_experts_of_another_architecture_are_refused(tmp_path: Path) -> None:
    path = write_model(MOE.parent / "qwen3-yarn", tmp_path / "model.gguf", changes={"qwen3.expert_count": 8})
    with pytest.raises(UnsupportedModelError, match="expert_count"):
        open_checkpoint(path)


def test_a_stack_of_another_number_is_named(tmp_path: Path) -> None:
    stack = {"blk.0.ffn_up_exps.weight": np.zeros((7, 64, 64), np.float32)}
    path = write_model(MOE, tmp_path / "model.gguf", tensors=stack)
    with pytest.raises(
        ModelFileError, match=r"ffn_up_exps.weight has the shape \[7, 64, 64\].*\[8, 64, 64\]"
    ):
        open_checkpoint(path)
