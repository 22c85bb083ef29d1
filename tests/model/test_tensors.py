"""Names, shapes and order of the tensors."""

from __future__ import annotations

from pathlib import Path

from dllama.checkpoint.hf.config import model_from_hf
from dllama.dtypes import ElementType
from dllama.families import family_named
from dllama.model import ModelSpec
from dllama.sharding import Tensor


def model_of(family: str, n_layers: int = 1) -> ModelSpec:
    values = {
        "model_type": family,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": n_layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 32,
        "vocab_size": 100,
        "max_position_embeddings": 128,
    }
    config = model_from_hf(values, Path("config.json")).config
    return ModelSpec.uniform(config, ElementType.Q40)


def test_llama_in_the_order_of_the_m_file() -> None:
    q40, f32 = ElementType.Q40, ElementType.F32
    assert [(tensor.name, tensor.shape, tensor.dtype) for tensor in model_of("llama")] == [
        ("embedding", (100, 64), f32),
        ("layers.0.q", (128, 64), q40),
        ("layers.0.k", (64, 64), q40),
        ("layers.0.v", (64, 64), q40),
        ("layers.0.o", (64, 128), q40),
        ("layers.0.gate", (96, 64), q40),
        ("layers.0.down", (64, 96), q40),
        ("layers.0.up", (96, 64), q40),
        ("layers.0.attention_norm", (64,), f32),
        ("layers.0.ffn_norm", (64,), f32),
        ("final_norm", (64,), f32),
        ("head", (100, 64), q40),
    ]


def test_qwen2_has_biases_after_q_k_v() -> None:
    names = [tensor.name for tensor in model_of("qwen2")]
    assert names[1:8] == [f"layers.0.{part}" for part in ("q", "k", "v", "q_bias", "k_bias", "v_bias", "o")]


def test_qwen3_has_head_norms_before_the_norms() -> None:
    names = [tensor.name for tensor in model_of("qwen3")]
    assert names[8:12] == [f"layers.0.{part}" for part in ("q_norm", "k_norm", "attention_norm", "ffn_norm")]


def test_sizes_in_bytes() -> None:
    tensor = Tensor("q", (3, 64), ElementType.Q40)
    assert (tensor.n_elements, tensor.row_bytes, tensor.n_bytes, tensor.fits_blocks) == (192, 36, 108, True)
    assert Tensor("gate", (5, 3, 64), ElementType.Q40).n_bytes == 5 * 108
    assert not Tensor("q", (3, 48), ElementType.Q80).fits_blocks
    assert Tensor("q", (3, 48), ElementType.F16).n_bytes == 288


def test_every_tensor_has_a_name_of_its_own_in_hugging_face() -> None:
    for family in ("llama", "mistral", "qwen2", "qwen3"):
        names = [family_named(family).hf_name(tensor.name) for tensor in model_of(family, 12)]
        assert len(set(names)) == len(names)
    assert family_named("llama").hf_name("layers.11.gate") == "model.layers.11.mlp.gate_proj.weight"
