"""Spans cover everything once, follow the shares, and respect blocks, for any number of nodes."""

from __future__ import annotations

import dataclasses
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dllama.dtypes import BLOCK, ElementType
from dllama.errors import UsageError
from dllama.model import VOCABULARY
from dllama.sharding import (
    Along,
    Axis,
    Cut,
    ShardPlan,
    Span,
    Tensor,
    axes_of,
    largest_node_count,
    plan_spans,
    shard_of,
)
from support.alike import Alike

LLAMA_8B = Alike()


@st.composite
def models(draw: st.DrawFn) -> Alike:
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


@given(models(), st.data())
def test_every_unit_is_owned_once(numbers: Alike, data: st.DataObject) -> None:
    axes = numbers.model.axes
    n_ranks = data.draw(st.integers(1, min(8, largest_node_count(axes))))
    shares = data.draw(st.lists(st.floats(0.1, 10), min_size=n_ranks, max_size=n_ranks))
    plan = plan_spans(axes, shares)
    heads, ffn = f"{numbers.n_heads} heads", f"{numbers.ffn_dim} FFN columns"
    assert {axis.name: axis.n for axis in axes} == {
        heads: numbers.n_heads, ffn: numbers.ffn_dim, VOCABULARY: numbers.vocab_size,
    }  # fmt: skip
    for axis in axes:
        spans = [of_rank[axis.name] for of_rank in plan.ranks]
        assert spans[0].start == 0
        assert spans[-1].stop == axis.n
        assert all(len(span) > 0 for span in spans)
        assert all(a.stop == b.start for a, b in itertools.pairwise(spans))
    for of_rank in plan.ranks:
        if numbers.weight_type.is_blocked:
            assert of_rank[heads].start * numbers.head_dim % BLOCK == 0
            assert of_rank[ffn].start % BLOCK == 0


@given(st.integers(1, 8), st.integers(1, 8), st.integers(1, 16), st.data())
def test_what_several_share_is_held_by_all_that_use_it(
    group: int, n_kv_heads: int, width: int, data: st.DataObject
) -> None:
    start = data.draw(st.integers(0, group * n_kv_heads - 1))
    stop = data.draw(st.integers(start + 1, group * n_kv_heads))
    rows = Cut("heads", Along.ROWS, width, group).of(Span(start, stop))
    used = {head // group * width + row for head in range(start, stop) for row in range(width)}
    assert used == set(range(rows.start, rows.stop))


@given(models(), st.data())
def test_shards_of_all_ranks_are_the_tensors(numbers: Alike, data: st.DataObject) -> None:
    model = numbers.model
    n_ranks = data.draw(st.integers(1, min(8, largest_node_count(model.axes))))
    plan = plan_spans(model.axes, [1.0] * n_ranks)
    for tensor in model.held():
        shards = [shard_of(tensor, spans) for spans in plan.ranks]
        n_elements = sum(shard.n_rows * len(shard.cols) for shard in shards)
        if tensor.cut is None:
            assert n_elements == tensor.n_elements * n_ranks  # norms are held by all
        elif tensor.cut.shared_by > 1:
            assert n_elements >= tensor.n_elements  # a cut group's KV head is held twice
        else:
            assert n_elements == tensor.n_elements
    assert [model.shard_bytes(spans) for spans in plan.ranks] == [
        sum(shard_of(tensor, spans).n_bytes for tensor in model.held()) for spans in plan.ranks
    ]


@given(st.sampled_from([ElementType.F32, ElementType.Q80, ElementType.Q4K]), st.integers(1, 8), st.data())
def test_a_stack_is_cut_in_each_of_its_matrices(
    dtype: ElementType, n_ranks: int, data: st.DataObject
) -> None:
    """Experts: every rank holds a slice of each."""
    n, columns = data.draw(st.integers(1, 5)), 256 * data.draw(st.integers(8, 12))
    gate = Tensor("gate", (n, columns, 512), dtype, Cut("columns", Along.ROWS))
    down = Tensor("down", (n, 512, columns), dtype, Cut("columns", Along.COLS))
    axes = axes_of([gate, down])
    assert axes == (Axis("columns", columns, dtype.run, fine=True),)
    ranks = plan_spans(axes, [1.0] * n_ranks).ranks
    for tensor in (gate, down):
        assert sum(shard_of(tensor, spans).n_elements for spans in ranks) == tensor.n_elements
        assert {shard_of(tensor, spans).n_rows % n for spans in ranks} == {0}


def test_columns_are_cut_between_runs_of_32_where_any_type_has_blocks() -> None:
    """Types may be mixed within a model, and within a layer."""
    columns = Cut("columns", Along.COLS)
    types = (ElementType.F16, ElementType.Q80, ElementType.Q6K)
    tensors = [Tensor(dtype.label, (8, 1024), dtype, columns) for dtype in types]
    assert [axes_of(tensors[:n])[0].unit for n in (1, 2, 3)] == [1, 32, 32]
    heads = [Tensor("o", (8, 1024), dtype, Cut("heads", Along.COLS, 64)) for dtype in types]
    assert [axes_of([tensor])[0].unit for tensor in heads] == [1, 1, 1]
    odd = Tensor("o", (8, 9 * 64), ElementType.Q80, Cut("heads", Along.COLS, 12, 1))
    assert axes_of([odd]) == (Axis("heads", 48, 8),)


def test_tensors_that_contradict_each_other() -> None:
    tensors = [Tensor(str(n), (n, 8), ElementType.F32, Cut("rows", Along.ROWS)) for n in (4, 5)]
    with pytest.raises(ValueError, match="5 would have 5 in place of rows"):
        axes_of(tensors)


def test_shares_are_followed() -> None:
    model = LLAMA_8B.model
    plan = plan_spans(model.axes, [3, 1, 1])
    assert [len(spans["14336 FFN columns"]) for spans in plan.ranks] == [8608, 2880, 2848]
    assert sum(len(spans["32 heads"]) for spans in plan.ranks) == 32
    total = sum(model.shard_bytes(spans) for spans in plan.ranks)
    assert model.shard_bytes(plan.ranks[0]) / total == pytest.approx(0.6, abs=0.02)


def test_more_nodes_than_kv_heads() -> None:
    model = LLAMA_8B.model
    mixer = model.config.kinds[0].mixer
    plan = plan_spans(model.axes, [1.0] * 16)
    assert all(len(spans["32 heads"]) == 2 and mixer.cache(spans).n_heads == 1 for spans in plan.ranks)


def test_too_many_nodes_says_how_many_work() -> None:
    with pytest.raises(UsageError, match=r"33 nodes cannot share .* 1 to 32 nodes"):
        plan_spans(LLAMA_8B.model.axes, [1.0] * 33)


@pytest.mark.parametrize("shares", [[], [1, 0], [1, -1], [1, float("nan")], [float("inf")]])
def test_impossible_shares(shares: list[float]) -> None:
    with pytest.raises(UsageError, match="shares are positive numbers"):
        plan_spans(LLAMA_8B.model.axes, shares)


def test_plan_survives_json() -> None:
    plan = plan_spans(LLAMA_8B.model.axes, [2, 1, 1])
    assert ShardPlan.from_json(plan.to_json()) == plan
