"""What Qwen's hybrids say in config.json, and how their tensors are stored."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from dllama.checkpoint import open_checkpoint
from dllama.checkpoint.hf.config import model_from_hf
from dllama.dtypes import ElementType
from dllama.errors import DllamaError, ModelFileError, UnsupportedModelError
from dllama.model import Attention, DeltaNet, Dense, Experts, ModelConfig
from support.gguf_delta import bf16_tensors
from support.local_cluster import GOLDENS

SIZES = {"hidden_size": 64, "num_hidden_layers": 5, "vocab_size": 100}


def config_of(**values: Any) -> ModelConfig:
    return model_from_hf({"model_type": "qwen3_5_text", **SIZES, **values}, Path("config.json")).config


def test_defaults_are_those_of_the_class() -> None:
    config = config_of()
    kinds = [type(config.layer(index).mixer) for index in range(5)]
    assert kinds == [DeltaNet] * 3 + [Attention, DeltaNet]
    net, attention = config.layer(0).mixer, config.layer(3).mixer
    assert net == DeltaNet(n_key_heads=16, n_value_heads=32, key_dim=128, value_dim=128, conv_width=4)
    assert isinstance(attention, Attention)
    assert (attention.n_heads, attention.n_kv_heads, attention.head_dim) == (16, 4, 256)
    assert attention.rope is not None
    assert attention.rope.n_rotated == 64
    assert attention.gated
    assert attention.qk_norm
    assert config.layer(0).feed_forward == config.layer(3).feed_forward
    assert isinstance(config.layer(0).feed_forward, Dense)


def test_mixtures_have_a_shared_expert_with_a_gate() -> None:
    for family, n_experts, top_k in (("qwen3_5_moe_text", 256, 8), ("qwen3_next", 512, 10)):
        feed_forward = config_of(model_type=family).layer(0).feed_forward
        assert isinstance(feed_forward, Experts)
        assert (feed_forward.n_experts, feed_forward.top_k) == (n_experts, top_k)
        assert feed_forward.renormalised
        assert feed_forward.shared is not None
        assert feed_forward.shared.gated
    mixed = config_of(model_type="qwen3_next", mlp_only_layers=[1])
    assert [type(mixed.layer(index).feed_forward) for index in (0, 1)] == [Experts, Dense]


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        ({"attention_bias": True}, UnsupportedModelError, "attention_bias"),
        ({"hidden_act": "gelu_pytorch_tanh"}, UnsupportedModelError, "hidden_act"),
        ({"layer_types": ["mamba"] * 5}, ModelFileError, "layer_types"),
        ({"full_attention_interval": 0}, DllamaError, "full_attention_interval"),
        ({"linear_num_key_heads": 5}, ModelFileError, "32 value heads cannot share 5 key heads"),
        ({"linear_conv_kernel_dim": 0}, ModelFileError, "conv_width is 0"),
        ({"linear_key_head_dim": 1 << 20}, ModelFileError, "linear_key_dim"),
    ],
)
def test_what_is_not_done_is_refused_by_name(
    values: dict[str, Any], error: type[DllamaError], message: str
) -> None:
    with pytest.raises(error, match=message):
        config_of(**values)


def as_published(source: Path, directory: Path) -> None:
    """The golden as a part of a model that sees and predicts further, with experts in one stack."""
    config = json.loads((source / "config.json").read_text())
    outer = {"model_type": "qwen3_5_moe", "text_config": config, "vision_config": {"depth": 1}}
    (directory / "config.json").write_text(json.dumps(outer))
    tensors = bf16_tensors(source / "model.safetensors")
    experts = "model.layers.{}.mlp.experts."
    for layer in range(config["num_hidden_layers"]):
        stem, parts = experts.format(layer), {}
        for part in ("gate_proj", "up_proj", "down_proj"):
            numbers = range(config["num_experts"])
            parts[part] = np.stack([tensors.pop(f"{stem}{number}.{part}.weight") for number in numbers])
        tensors[f"{stem}gate_up_proj"] = np.concatenate([parts["gate_proj"], parts["up_proj"]], axis=1)
        tensors[f"{stem}down_proj"] = parts["down_proj"]
    named = {name.replace("model.", "model.language_model.", 1): each for name, each in tensors.items()}
    named |= {"model.visual.blocks.0.norm1.weight": np.ones(4, np.float32)}
    named |= {"mtp.layers.0.mlp.gate.weight": np.ones((4, 4), np.float32)}
    save_file(named, directory / "model.safetensors")


def test_a_part_of_a_larger_model_is_the_same(tmp_path: Path) -> None:
    source = GOLDENS / "qwen3-5-moe"
    as_published(source, tmp_path)
    small, larger = (open_checkpoint(path, ElementType.F32) for path in (source, tmp_path))
    assert larger.model == small.model
    for tensor in small.model:
        outs = [np.empty((tensor.stacked_rows, tensor.row_bytes), np.uint8) for _ in range(2)]
        for checkpoint, out in zip((small, larger), outs, strict=True):
            checkpoint.read(tensor.name, (0, tensor.stacked_rows), (0, tensor.n_cols), out)
        np.testing.assert_array_equal(*outs, err_msg=tensor.name)
    small.close()
    larger.close()


def test_a_tensor_of_another_shape_is_named(tmp_path: Path) -> None:
    source = GOLDENS / "qwen3-5-moe"
    (tmp_path / "config.json").write_text((source / "config.json").read_text())
    tensors = bf16_tensors(source / "model.safetensors")
    name = "model.layers.0.linear_attn.in_proj_qkv.weight"
    save_file(tensors | {name: tensors[name][:-1].copy()}, tmp_path / "model.safetensors")
    with pytest.raises(ModelFileError, match=f"{name} has the shape"):
        open_checkpoint(tmp_path, ElementType.F32)
