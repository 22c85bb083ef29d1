"""Names, shapes and order of the tensors."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from dllama.checkpoint.hf.config import model_from_hf
from dllama.dtypes import ElementType
from dllama.fabric import local_fabrics
from dllama.families import family_named
from dllama.model import Layer, ModelConfig, ModelSpec, TensorTypes
from dllama.node.info import NodeRecords
from dllama.node.memory import memory_need, session_shape
from dllama.node.messages import SessionPlan, Welcome
from dllama.node.timing import Timeline
from dllama.sharding import Tensor, plan_spans
from support.alike import Alike

WELCOME = Welcome(machine="m", available_bytes=1 << 30, n_threads=4, isa="avx2", kv_on_disk=False)


def model_of(family: str, n_layers: int = 1, **more: object) -> ModelSpec:
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
        "num_experts": 8,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 32,
    } | more
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


def test_qwen3_moe_has_a_router_and_stacks_of_experts() -> None:
    model = model_of("qwen3_moe", 2, mlp_only_layers=[0])
    tensors = {tensor.name: tensor for tensor in model}
    assert "layers.0.router" not in tensors
    assert tensors["layers.0.gate"].shape == (96, 64)
    names = list(tensors)
    first = names.index("layers.1.router")
    assert names[first : first + 5] == [
        f"layers.1.{part}" for part in ("router", "experts_gate", "experts_down", "experts_up", "q_norm")
    ]
    assert tensors["layers.1.experts_gate"].shape == tensors["layers.1.experts_up"].shape == (8, 32, 64)
    assert tensors["layers.1.experts_down"].shape == (8, 64, 32)
    assert tensors["layers.1.router"].dtype is ElementType.F32
    assert model.types.uniform is ElementType.Q40  # the router has a type of its own
    assert [axis.name for axis in model.axes] == [
        "4 heads", "96 FFN columns", "32 expert columns", "vocabulary rows"
    ]  # fmt: skip


def test_a_step_reads_the_experts_that_its_rows_choose() -> None:
    model = model_of("qwen3_moe")
    spans = plan_spans(model.axes, [1.0]).ranks[0]
    tensors = {tensor.name.removeprefix("layers.0."): tensor for tensor in model.held()}
    experts = [tensor for name, tensor in tensors.items() if name.startswith("experts_")]
    others = sum(tensor.n_bytes for tensor in tensors.values()) - sum(tensor.n_bytes for tensor in experts)
    of_experts = sum(tensor.n_bytes for tensor in experts)
    assert model.read_bytes(spans, 1) == others + of_experts * 2 / 8
    assert model.read_bytes(spans, 2) == others + round(of_experts * (1 - 0.75**2))
    assert model.read_bytes(spans, 1000) == model.shard_bytes(spans)
    assert tensors["experts_up"].elements_of_row == 2 * 32 * 64
    assert tensors["q"].elements_of_row == 128 * 64


def test_sizes_in_bytes() -> None:
    tensor = Tensor("q", (3, 64), ElementType.Q40)
    assert (tensor.n_elements, tensor.row_bytes, tensor.n_bytes, tensor.fits_blocks) == (192, 36, 108, True)
    assert Tensor("gate", (5, 3, 64), ElementType.Q40).n_bytes == 5 * 108
    assert not Tensor("q", (3, 48), ElementType.Q80).fits_blocks
    assert Tensor("q", (3, 48), ElementType.F16).n_bytes == 288


def test_every_tensor_has_a_name_of_its_own_in_hugging_face() -> None:
    for family in ("llama", "mistral", "qwen2", "qwen3", "qwen3_moe"):
        names = [
            family_named(family).hf_name(tensor.name, number)
            for tensor in model_of(family, 12, decoder_sparse_step=2)
            for number in range(tensor.n_stacked)
        ]
        assert len(set(names)) == len(names)
    assert family_named("llama").hf_name("layers.11.gate") == "model.layers.11.mlp.gate_proj.weight"


def test_tens_of_thousands_of_tensors_are_planned_as_quickly_as_few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Work and bytes follow the kinds of layers: 56 000 tensors here, of layers of two kinds and three mixtures of
    types, as in the files of others."""
    usual = Alike(n_layers=4000, qkv_bias=True, qk_norm=True)
    (kind,) = usual.config.kinds
    windowed = dataclasses.replace(kind, mixer=dataclasses.replace(kind.mixer, window=512))
    layers = [windowed if index % 6 < 5 else kind for index in range(4000)]
    config = ModelConfig.of_layers(
        layers, family="llama", dim=4096, vocab_size=128256, max_seq_len=8192, norm_eps=1e-5
    )
    matrices = usual.model.types.kinds[0]
    mixtures = [matrices | {"down": dtype, "v": dtype} for dtype in (ElementType.Q4K, ElementType.Q6K)]
    types = TensorTypes.of_layers(
        {"head": ElementType.Q6K}, [matrices, *(mixtures[index * 8 // 4000 % 2] for index in range(3999))]
    )
    n_listed = 0
    list_tensors = Layer.tensors

    def tensors(*arguments: Any) -> list[Tensor]:
        nonlocal n_listed
        n_listed += 1
        return list_tensors(*arguments)

    monkeypatch.setattr(Layer, "tensors", tensors)
    model = ModelSpec(config, types)
    shards = plan_spans(model.axes, [3, 1, 1])
    cache, limits = session_shape(
        model,
        shards,
        max_seq_len=4096,
        n_sequences=1,
        n_parallel=1,
        wire=ElementType.Q80,
        cache_type=ElementType.F16,
        timeout_s=5.0,
    )
    needs = [memory_need(model, shards, rank, cache, limits, kv_on_disk=False) for rank in range(3)]
    addresses = ("", "10.0.0.1:1", "10.0.0.1:2")
    plan = SessionPlan(
        session="a", rank=1, addresses=addresses, model=model, shards=shards, cache=cache, limits=limits
    )
    assert sum(need.weight_bytes for need in needs) > 4000 * 3 * 4096 * 14336 / 2
    records = NodeRecords(plan, ["a", "b", "c"], [WELCOME] * 3)
    fabric = local_fabrics(3)[0]
    before = n_listed
    for _ in range(10):
        records.now(fabric, Timeline())
    assert n_listed == before
    assert n_listed < 100
    payload = plan.encode()
    assert len(payload) < 64_000
    assert SessionPlan.decode(payload, "root") == plan
    assert n_listed < 200
    assert sum(len(tensors) * n for tensors, n in model.alike) > 40_000


def test_types_are_named_as_one_would_say_them() -> None:
    labels = []
    for n in range(1, 4):
        types = dict(zip("abc", (ElementType.Q50, ElementType.Q4K, ElementType.Q6K)[:n], strict=False))
        labels.append(TensorTypes.of_layers({}, [types]).label)
    assert labels == ["q50", "q50 and q4k", "q50, q4k and q6k"]


def test_layers_in_a_row_that_are_alike_take_one_entry() -> None:
    model = Alike(n_layers=4000).model
    assert len(json.dumps(model.to_json())) < 1000
    assert ModelSpec.from_json(json.loads(json.dumps(model.to_json()))) == model
