"""Spans cover everything once, follow the shares, and respect blocks, for any number of nodes."""

from __future__ import annotations

import dataclasses
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dllama.dtypes import BLOCK, ElementType
from dllama.errors import UsageError
from dllama.families import Activation, ModelConfig, RopeStyle, tensor_specs
from dllama.sharding import ShardPlan, largest_node_count, plan_spans, rank_shards, shard_bytes

LLAMA_8B = ModelConfig(
    family="llama", dim=4096, ffn_dim=14336, n_layers=2, n_heads=32, n_kv_heads=8, head_dim=128,
    vocab_size=128256, max_seq_len=8192, norm_eps=1e-5, rope_theta=500000.0, rope_style=RopeStyle.ADJACENT,
    rope_scaling=None, activation=Activation.SILU, qkv_bias=False, qk_norm=False, sliding_window=None,
    weight_type=ElementType.Q40,
)  # fmt: skip


@st.composite
def configs(draw: st.DrawFn) -> ModelConfig:
    group = draw(st.integers(1, 4))
    n_kv_heads = draw(st.integers(1, 8))
    head_dim = 2 * draw(st.integers(4, 40))
    weight_type = draw(st.sampled_from([ElementType.F32, ElementType.Q40]))
    if weight_type.is_blocked:
        head_dim = 32 * draw(st.integers(1, 4))
    return dataclasses.replace(
        LLAMA_8B,
        n_heads=group * n_kv_heads,
        n_kv_heads=n_kv_heads,
        head_dim=head_dim,
        ffn_dim=(BLOCK if weight_type.is_blocked else 1) * draw(st.integers(8, 50)),
        vocab_size=draw(st.integers(32, 1000)),
        weight_type=weight_type,
    )


@given(configs(), st.data())
def test_every_unit_is_owned_once(config: ModelConfig, data: st.DataObject) -> None:
    n_ranks = data.draw(st.integers(1, min(8, largest_node_count(config))))
    shares = data.draw(st.lists(st.floats(0.1, 10), min_size=n_ranks, max_size=n_ranks))
    plan = plan_spans(config, shares)
    for kind, total in (("heads", config.n_heads), ("ffn", config.ffn_dim), ("vocab", config.vocab_size)):
        spans = [getattr(spans, kind) for spans in plan.ranks]
        assert spans[0].start == 0
        assert spans[-1].stop == total
        assert all(len(span) > 0 for span in spans)
        assert all(a.stop == b.start for a, b in itertools.pairwise(spans))
    for spans in plan.ranks:
        used = {head // config.group for head in range(spans.heads.start, spans.heads.stop)}
        assert used == set(range(spans.kv_heads.start, spans.kv_heads.stop))
        if config.weight_type.is_blocked:
            assert spans.heads.start * config.head_dim % BLOCK == 0
            assert spans.ffn.start % BLOCK == 0


@given(configs(), st.data())
def test_shards_of_all_ranks_are_the_tensors(config: ModelConfig, data: st.DataObject) -> None:
    n_ranks = data.draw(st.integers(1, min(8, largest_node_count(config))))
    plan = plan_spans(config, [1.0] * n_ranks)
    by_rank = [rank_shards(config, spans) for spans in plan.ranks]
    specs = {spec.name: spec for spec in tensor_specs(config)}
    for shards in zip(*by_rank, strict=True):
        spec = specs[shards[0].name]
        n_elements = sum(len(shard.rows) * len(shard.cols) for shard in shards)
        if spec.name.rpartition(".")[2] in ("k", "v", "k_bias", "v_bias"):
            assert n_elements >= spec.n_elements  # a cut group's KV head is held twice
        elif spec.name.rpartition(".")[2] in ("q", "o", "gate", "up", "down", "head", "q_bias"):
            assert n_elements == spec.n_elements
        else:
            assert n_elements == spec.n_elements * n_ranks  # norms are held by all


def test_shares_are_followed() -> None:
    plan = plan_spans(LLAMA_8B, [3, 1, 1])
    assert [len(spans.ffn) for spans in plan.ranks] == [8608, 2880, 2848]
    assert sum(len(spans.heads) for spans in plan.ranks) == 32
    total = sum(shard_bytes(LLAMA_8B, spans) for spans in plan.ranks)
    assert shard_bytes(LLAMA_8B, plan.ranks[0]) / total == pytest.approx(0.6, abs=0.02)


def test_more_nodes_than_kv_heads() -> None:
    plan = plan_spans(LLAMA_8B, [1.0] * 16)
    assert all(len(spans.heads) == 2 and len(spans.kv_heads) == 1 for spans in plan.ranks)


def test_too_many_nodes_says_how_many_work() -> None:
    with pytest.raises(UsageError, match=r"33 nodes cannot share .* 1 to 32 nodes"):
        plan_spans(LLAMA_8B, [1.0] * 33)


@pytest.mark.parametrize("shares", [[], [1, 0], [1, -1], [1, float("nan")], [float("inf")]])
def test_impossible_shares(shares: list[float]) -> None:
    with pytest.raises(UsageError, match="shares are positive numbers"):
        plan_spans(LLAMA_8B, shares)


def test_plan_survives_json() -> None:
    plan = plan_spans(LLAMA_8B, [2, 1, 1])
    assert ShardPlan.from_json(plan.to_json()) == plan
