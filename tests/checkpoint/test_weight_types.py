"""Which matrices become what where a model is quantised."""

from __future__ import annotations

from pathlib import Path

import pytest

from dllama.checkpoint import FOUR_BITS, WEIGHT_TYPES
from dllama.checkpoint.hf.config import read_hf_config
from dllama.checkpoint.weight_types import MOST_BITS, bits_of_layers, model_of_type
from dllama.dtypes import ElementType
from dllama.model import Activation, Attention, Dense, Experts, Layer, ModelConfig, Rope, RopeStyle

GOLDENS = Path(__file__).resolve().parent.parent / "goldens"
IQ4NL, Q4K, Q6K, Q80 = ElementType.IQ4NL, ElementType.Q4K, ElementType.Q6K, ElementType.Q80


def config(n_kv_heads: int = 4, n_layers: int = 32, dim: int = 4096, experts: bool = False) -> ModelConfig:
    attention = Attention(
        n_heads=32, n_kv_heads=n_kv_heads, head_dim=dim // 32, rope=Rope(theta=1e4, style=RopeStyle.HALVES)
    )
    dense = Dense(ffn_dim=14336, activation=Activation.SILU)
    mixture = Experts(n_experts=128, top_k=8, expert_dim=768, activation=Activation.SILU, renormalised=True)
    layer = Layer(mixer=attention, feed_forward=mixture if experts else dense)
    return ModelConfig.of_layers(
        [layer] * n_layers, family="llama", dim=dim, vocab_size=1000, max_seq_len=64, norm_eps=1e-5
    )


def types(of: ModelConfig, weight_type: ElementType) -> dict[str, ElementType]:
    return {tensor.name: tensor.dtype for tensor in model_of_type(of, weight_type).held() if tensor.is_packed}


@pytest.mark.parametrize("weight_type", [IQ4NL, Q4K], ids=str)
def test_small_matrices_that_cost_most_are_spared(weight_type: ElementType) -> None:
    found = types(config(), weight_type)
    spared = {name for name, dtype in found.items() if dtype is Q80}
    assert spared == {"head", "layers.0.down", "layers.31.down", *(f"layers.{i}.v" for i in range(32))}
    assert set(found.values()) == {weight_type, Q80}


def test_values_that_are_many_are_not_spared() -> None:
    """As many KV heads as heads: v is as large as q."""
    found = types(config(n_kv_heads=32), IQ4NL)
    assert found["layers.0.v"] is IQ4NL
    assert found["layers.31.down"] is Q80


@pytest.mark.parametrize("weight_type", WEIGHT_TYPES, ids=str)
@pytest.mark.parametrize("path", sorted(GOLDENS.iterdir()), ids=lambda path: path.name)
def test_four_bits_are_no_more_than_they_may_be(path: Path, weight_type: ElementType) -> None:
    model = model_of_type(read_hf_config(path / "config.json").config, weight_type)
    if weight_type in FOUR_BITS:
        assert bits_of_layers(model) <= MOST_BITS


def test_what_experts_cost_is_that_of_the_chosen_ones() -> None:
    found = types(config(experts=True), IQ4NL)
    assert found["layers.3.v"] is Q80
    assert found["layers.3.experts_down"] is IQ4NL
    assert bits_of_layers(model_of_type(config(experts=True), IQ4NL)) <= MOST_BITS


def test_short_rows_get_types_of_short_blocks() -> None:
    """576 columns are no whole blocks of 256."""
    of = config(dim=576 * 32 // 32)
    assert types(of, Q4K)["layers.1.q"] is IQ4NL
    assert types(of, Q4K)["layers.1.down"] is Q4K
    assert types(of, Q6K)["layers.1.q"] is Q80
    assert types(of, Q6K)["layers.1.down"] is Q6K
    assert types(of, Q6K)["head"] is Q80


@pytest.mark.parametrize("weight_type", [ElementType.Q40, Q80, ElementType.F16, ElementType.F32], ids=str)
def test_types_of_m_files_are_uniform(weight_type: ElementType) -> None:
    assert set(types(config(), weight_type).values()) == {weight_type}
