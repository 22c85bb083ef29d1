"""Experts in a `.m` file: Distributed Llama's order, byte by byte."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np

from dllama.checkpoint import convert_model, open_checkpoint
from dllama.dtypes import ElementType
from support.local_cluster import GOLDENS

N_EXPERTS = 8


def golden_tensors() -> dict[str, np.ndarray]:
    """The golden's tensors as float32, by their Hugging Face names."""
    data = (GOLDENS / "qwen3-moe" / "model.safetensors").read_bytes()
    (size,) = struct.unpack("<Q", data[:8])
    body = np.frombuffer(data, np.uint8, offset=8 + size)
    entries = json.loads(data[8 : 8 + size])
    entries.pop("__metadata__", None)
    return {
        name: bf16(body[slice(*entry["data_offsets"])], entry["shape"]) for name, entry in entries.items()
    }


def bf16(data: np.ndarray, shape: list[int]) -> np.ndarray:
    return (data.view(np.uint16).astype(np.uint32) << 16).view(np.float32).reshape(shape)


def test_each_expert_has_its_gate_down_and_up_together(tmp_path: Path) -> None:
    convert_model(open_checkpoint(GOLDENS / "qwen3-moe", ElementType.F32), tmp_path / "model.m")
    data = (tmp_path / "model.m").read_bytes()
    (header_bytes,) = struct.unpack("<i", data[4:8])
    values = np.frombuffer(data, np.float32, offset=header_bytes)
    tensors = golden_tensors()
    order = ["model.embed_tokens.weight"]
    for layer in range(2):
        at = f"model.layers.{layer}."
        order += [f"{at}self_attn.{part}_proj.weight" for part in "qkvo"]
        order.append(f"{at}mlp.gate.weight")
        for expert in range(N_EXPERTS):
            order += [f"{at}mlp.experts.{expert}.{part}_proj.weight" for part in ("gate", "down", "up")]
        order += [f"{at}self_attn.{part}_norm.weight" for part in "qk"]
        order += [f"{at}{part}_layernorm.weight" for part in ("input", "post_attention")]
    order += ["model.norm.weight", "lm_head.weight"]
    np.testing.assert_array_equal(values, np.concatenate([tensors[name].ravel() for name in order]))


def test_it_is_read_as_it_was_written(tmp_path: Path) -> None:
    for dtype in (ElementType.F32, ElementType.Q40, ElementType.Q80):
        source = open_checkpoint(GOLDENS / "qwen3-moe", dtype)
        convert_model(source, tmp_path / "model.m")
        again = open_checkpoint(tmp_path / "model.m")
        assert again.config == source.config
        assert again.model.types == source.model.types
        for name, tensor in source.tensors.items():
            whole = (0, tensor.stacked_rows), (0, tensor.n_cols)
            np.testing.assert_array_equal(again.read(name, *whole), source.read(name, *whole))
