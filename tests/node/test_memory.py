"""Whether what is needed is there is asked of each computer, not of each node."""

from __future__ import annotations

import contextlib
import dataclasses
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dllama.bench import shape_named
from dllama.checkpoint import open_checkpoint
from dllama.dtypes import ElementType
from dllama.engine import TokenChunk, ragged_batch
from dllama.errors import NotEnoughMemoryError
from dllama.kernels import Cpu, Device, Reference, decodes_weights
from dllama.model import (
    VOCABULARY,
    Activation,
    Attention,
    CacheShape,
    CacheStorage,
    DeltaNet,
    Dense,
    Layer,
    ModelConfig,
    ModelSpec,
    ModelWeights,
    PageGroup,
    cache_bytes,
    state_bytes,
)
from dllama.node.machine import available_memory_bytes, machine_id, peak_rss_bytes
from dllama.node.memory import (
    MemoryNeed,
    NodeMemory,
    check_memory,
    large_step_bytes,
    memory_need,
    node_memory,
    session_shape,
)
from dllama.node.messages import SessionPlan, Welcome
from dllama.node.rank import NodeSettings
from dllama.node.step_message import max_answer_bytes, max_step_bytes
from dllama.sharding import plan_spans
from support.local_cluster import GOLDENS, LocalCluster
from support.random_model import random_model
from support.session_root import small_plan

GB = 10**9


def node(
    name: str, machine: str, available: float, weights: float, kv: float = 0, on_disk: bool = False
) -> NodeMemory:
    need = MemoryNeed(
        weight_bytes=int(weights * GB), kv_bytes=int(kv * GB), kv_on_disk=on_disk, other_bytes=GB // 10
    )
    return NodeMemory(name, machine, int(available * GB), need)


def n_positions_of(cache: CacheShape) -> int:
    """Of the one page group."""
    (group,) = cache.groups
    return group.n_pages * cache.page_size


def test_enough() -> None:
    check_memory([node("this node", "a", 2, 1.8), node("10.0.0.1:9990", "b", 2, 1.8)])


def test_nodes_of_one_computer_share_its_memory() -> None:
    """Each alone would fit. The smaller answer counts: the one who was asked later has less."""
    nodes = [node("this node", "a", 4, 1), node("10.0.0.1:1", "b", 3, 1.4), node("10.0.0.1:2", "b", 2.9, 1.4)]
    with pytest.raises(NotEnoughMemoryError) as error:
        check_memory(nodes)
    line = str(error.value)
    assert "10.0.0.1:1 and 10.0.0.1:2 on one computer need 3.00 GB" in line
    assert "2.80 GB weights" in line
    assert "2.90 GB are free" in line
    assert "this node" not in line
    assert error.value.settings == ("max_seq_len", "cache_storage", "shares")
    for help_with in ("more or larger nodes", "shorter context", "cache on disk", "other shares"):
        assert help_with in line


def test_a_cache_on_disk_needs_no_memory() -> None:
    with pytest.raises(
        NotEnoughMemoryError, match=r"this node needs 3.10 GB \(1.00 GB weights, 2.00 GB KV cache\)"
    ):
        check_memory([node("this node", "a", 2, 1, kv=2)])
    check_memory([node("this node", "a", 2, 1, kv=2, on_disk=True)])


@pytest.mark.parametrize(
    ("shape", "n_nodes", "most_threads", "max_rows"),
    [
        *[("llama-3.2-1b", 1, most_threads, 256) for most_threads in (2, 16, None)],
        ("llama-3.2-1b", 1, 1, 128),
        ("llama-3.2-1b", 2, 1, 256),
        ("llama-3.2-1b", 4, 4, 512),
        ("qwen3-30b-a3b", 1, 1, 512),  # 32 for each of 128 experts of which 8 are chosen
        ("qwen3-235b-a22b", 1, 2, 256),  # what fits
    ],
    ids=str,
)
def test_a_step_has_rows_for_all_threads_and_experts(
    shape: str, n_nodes: int, most_threads: int | None, max_rows: int
) -> None:
    model = shape_named(shape, None, ElementType.Q40)
    _, limits = session_shape(
        model,
        plan_spans(model.axes, [1.0] * n_nodes),
        max_seq_len=1024,
        n_sequences=1,
        n_parallel=1,
        wire=ElementType.Q80,
        cache_type=ElementType.F16,
        timeout_s=1.0,
        most_threads=most_threads,
    )
    assert limits.max_rows == max_rows
    large_bytes = max_rows * model.config.dim // 32 * 34 if max_rows >= 256 else None  # of Q80 blocks
    assert large_step_bytes(model.config, limits) == large_bytes


def test_what_is_needed_is_what_is_allocated(plan: SessionPlan) -> None:
    for rank in range(plan.shards.n_ranks):
        need = memory_need(plan.model, plan.shards, rank, plan.cache, plan.limits, kv_on_disk=False)
        rows = plan.config.kinds[0].mixer.cache(plan.shards.ranks[rank])
        n_kv = 2 * plan.config.n_layers * rows.n_heads * n_positions_of(plan.cache) * rows.width
        assert need.kv_bytes == 2 * n_kv  # float16
        assert need.memory_bytes == need.weight_bytes + need.kv_bytes + need.other_bytes


@pytest.mark.parametrize("golden", ["llama-gqa", "qwen3-moe"])
@pytest.mark.parametrize("device", [Cpu(1), Reference()], ids=["cpu", "reference"])
def test_weights_take_what_a_device_says_that_they_do(golden: str, device: Device) -> None:
    """The reference holds them decoded, so a node with it needs more; the cpu packs them into whole tiles."""
    with contextlib.closing(open_checkpoint(GOLDENS / golden, ElementType.Q80)) as checkpoint:
        model = checkpoint.model
    plan = dataclasses.replace(small_plan(), model=model, shards=plan_spans(model.axes, [1.0, 1.0]), rank=1)
    welcome = Welcome("a", GB, 1, device.isa, False)
    spans = plan.shards.ranks[1]
    weights = ModelWeights(device, model, spans)
    held = [weights.head.nbytes, *(vector.nbytes for vector in weights.outer.values())]
    for layer in weights.layers:
        held += [matrix.nbytes for stacked in layer.matrices.values() for matrix in stacked.matrices]
        held += [
            each.nbytes for each in (*layer.stacks.values(), *layer.tables.values(), *layer.vectors.values())
        ]
    need = node_memory("this node", welcome, plan).need
    if decodes_weights(device.isa):
        assert need.weight_bytes == sum(held)
    else:
        assert need.weight_bytes == model.shard_bytes(spans)
        assert need.weight_bytes <= sum(held)


CACHE_BITS = [(ElementType.F16, 16), (ElementType.F32, 32), (ElementType.Q80, 8.5)]


@pytest.mark.parametrize(("cache_type", "bits"), CACHE_BITS, ids=str)
def test_the_cache_is_as_large_as_foreseen(cache_type: ElementType, bits: float) -> None:
    with LocalCluster(GOLDENS / "llama-head-dim", shares=(2, 1), cache_type=cache_type) as cluster:
        n_heads = sum(memory.cache.layers[0][0].shape[1] for memory in cluster._memories)
        head_dim = cluster.config.kinds[0].mixer.head_dim
        n_values = 2 * cluster.config.n_layers * n_heads * n_positions_of(cluster.cache) * head_dim
        spans = cluster._memories[0].plan.shards.ranks
        foreseen = [cache_bytes(cluster.config, of_rank, cluster.cache) for of_rank in spans]
        assert sum(foreseen) == n_values * bits / 8
        for memory, n_bytes in zip(cluster._memories, foreseen, strict=True):
            cache = memory.cache
            assert sum(buffer.nbytes for pair in cache.layers for buffer in pair) == n_bytes


def test_states_are_as_large_as_foreseen() -> None:
    """One for each page of their group; keys and values are those of the other layers."""
    with LocalCluster(GOLDENS / "qwen3-5", shares=(2, 1), n_pages=(24, 7)) as cluster:
        for memory, transformer in zip(cluster._memories, cluster._transformers, strict=True):
            spans = memory.plan.shards.ranks[memory.plan.rank]
            states = [state for layer in transformer._states.layers for state in layer]
            assert {state.shape[0] for state in states} == {7}
            assert len(states) == 2 * 3
            n_bytes = sum(state.nbytes for state in states)
            assert n_bytes == state_bytes(cluster.config, spans, cluster.cache)
            assert n_bytes > 0
            plain = dataclasses.replace(cluster.cache.groups[1], n_pages=14)
            twice = dataclasses.replace(cluster.cache, groups=(cluster.cache.groups[0], plain))
            needs = [
                memory_need(
                    memory.plan.model, memory.plan.shards, memory.plan.rank, cache, memory.plan.limits, False
                )
                for cache in (cluster.cache, twice)
            ]
            assert needs[1].other_bytes - needs[0].other_bytes == n_bytes
            assert needs[1].kv_bytes == needs[0].kv_bytes


@pytest.mark.parametrize(("n_nodes", "n_parallel"), [(1, 1), (1, 8), (8, 8)])
def test_states_keep_to_a_budget(n_nodes: int, n_parallel: int) -> None:
    """As many as texts at work need in any case: each the page at its border and the one that it goes on in."""
    model = shape_named("qwen3.6-35b-a3b", None, ElementType.F16)
    plan = plan_spans(model.axes, [1.0] * n_nodes)
    cache, limits = session_shape(
        model, plan, max_seq_len=1 << 15, n_sequences=n_parallel, n_parallel=n_parallel,
        wire=ElementType.Q80, cache_type=ElementType.F16, timeout_s=1.0,
    )  # fmt: skip
    whole, states = cache.groups
    assert whole.n_pages == n_parallel * (1 << 15) // 64
    n_needed = 2 * n_parallel + 1 + -(-limits.max_rows // 64)
    n_bytes = max(state_bytes(model.config, spans, cache) for spans in plan.ranks)
    of_page = n_bytes // states.n_pages
    assert of_page == pytest.approx(63e6 / n_nodes, rel=0.05)
    assert n_needed <= states.n_pages <= n_needed + 2 * n_parallel
    assert n_bytes <= max(1e9, n_needed * of_page)
    if n_nodes == 8:
        assert states.n_pages == n_needed + 2 * n_parallel


def test_a_model_of_states_alone_has_no_cache(tmp_path: Path) -> None:
    net = DeltaNet(n_key_heads=1, n_value_heads=2, key_dim=8, value_dim=8, conv_width=4)
    layer = Layer(mixer=net, feed_forward=Dense(ffn_dim=32, activation=Activation.SILU))
    config = ModelConfig.of_layers(
        [layer] * 2, family="qwen3_5_text", dim=32, vocab_size=64, max_seq_len=64, norm_eps=1e-6
    )
    checkpoint, _ = random_model(ModelSpec.uniform(config, ElementType.F32))
    on_disk = NodeSettings(kv_storage=CacheStorage.DISK, kv_directory=tmp_path)
    with LocalCluster(checkpoint, n_pages=8, node=on_disk) as cluster:
        assert not list(tmp_path.iterdir())
        cluster.step(ragged_batch([TokenChunk([1, 2, 3], 0, cluster.cache.lone_pages(0, 3), 1)]))


@pytest.mark.parametrize("n_nodes", [1, 3])
def test_layers_with_a_window_keep_the_window(n_nodes: int) -> None:
    """Gemma 3 of 270 M at its longest: of 18 layers each sixth keeps the whole context, the others what one text holds
    of a window of 512, 8 pages and the one that it goes on in, twice, and the rows of a step."""
    max_seq_len, window = 32768, 512
    attention = Attention(n_heads=4, n_kv_heads=1, head_dim=256, rope=None)
    kinds = [
        Layer(
            mixer=dataclasses.replace(attention, window=w),
            feed_forward=Dense(ffn_dim=2048, activation=Activation.GELU),
        )
        for w in (window, None)
    ]
    config = ModelConfig.of_layers(
        [kinds[(index + 1) % 6 == 0] for index in range(18)],
        family="gemma3_text", dim=640, vocab_size=262144, max_seq_len=max_seq_len, norm_eps=1e-6,
    )  # fmt: skip
    model = ModelSpec.uniform(config, ElementType.Q40)
    plan = plan_spans(model.axes, [1.0] * n_nodes)
    cache, limits = session_shape(
        model, plan, max_seq_len=max_seq_len, n_sequences=1, n_parallel=1,
        wire=ElementType.Q80, cache_type=ElementType.F16, timeout_s=1.0,
    )  # fmt: skip
    row_bytes = 2 * 256 * 2  # keys and values of the one KV head, which all ranks hold
    n_kept = 64 * (2 * (8 + 1) + 1 + -(-limits.max_rows // 64))
    n_bytes = row_bytes * (3 * max_seq_len + 15 * n_kept)
    assert n_bytes < 0.22 * row_bytes * 18 * max_seq_len
    for rank in range(n_nodes):
        assert memory_need(model, plan, rank, cache, limits, kv_on_disk=False).kv_bytes == n_bytes


@pytest.mark.parametrize("n_parallel", [1, 3, 8])
@pytest.mark.parametrize("window", [1, 12, 64, 65, 512, 4000, 5000])
def test_pages_of_a_window_are_enough_and_no_more_than_all(window: int, n_parallel: int) -> None:
    """Every text has room for its window wherever it stands, and all rows of a step together, in any parts."""
    with contextlib.closing(open_checkpoint(GOLDENS / "gemma3-two-kinds", ElementType.F32)) as checkpoint:
        config = checkpoint.config
    kinds = tuple(
        dataclasses.replace(kind, mixer=dataclasses.replace(kind.mixer, window=kind.mixer.window and window))
        for kind in config.kinds
    )
    model = ModelSpec.uniform(dataclasses.replace(config, kinds=kinds), ElementType.F32)
    cache, limits = session_shape(
        model, plan_spans(model.axes, [1.0]), max_seq_len=4096, n_sequences=min(n_parallel, 2),
        n_parallel=n_parallel, wire=ElementType.F32, cache_type=ElementType.F16, timeout_s=1.0,
    )  # fmt: skip
    whole, group = cache.groups
    assert (whole.window, group.window) == (None, window)
    assert group.n_pages <= whole.n_pages == min(n_parallel, 2) * 64
    shares = [limits.max_rows // n_parallel] * n_parallel
    held = [group.most_pages(4096, max(1, n), 64) for n in shares]
    assert group.n_pages == whole.n_pages or window < 64 or group.n_pages >= sum(held)
    assert group.n_pages == whole.n_pages or group.n_pages >= n_parallel * group.most_pages(4096, 1, 64)
    assert group.n_pages >= group.most_pages(4096, limits.max_rows, 64)


def test_this_computer() -> None:
    assert machine_id() == machine_id()
    assert 0 < available_memory_bytes() < 1 << 50
    assert 10_000_000 < peak_rss_bytes() < 1 << 45


@settings(max_examples=200)
@given(data=st.data())
def test_all_that_a_step_may_take_is_counted(data: st.DataObject) -> None:
    """Whatever a plan says: its largest messages, the page table and the bits of its masks are in the need."""
    plan = small_plan()
    page_size = data.draw(st.integers(1, 1 << 10))
    group = PageGroup(window=None, n_pages=data.draw(st.integers(1, 1 << 20)))
    cache = dataclasses.replace(plan.cache, groups=(group,), page_size=page_size)
    n_rows = data.draw(st.integers(1, 1 << 16))
    limits = dataclasses.replace(
        plan.limits,
        max_rows=n_rows,
        max_logit_rows=data.draw(st.integers(1, n_rows)),
        max_positions=data.draw(st.integers(1, n_positions_of(cache))),
    )
    vocab = plan.shards.ranks[1][VOCABULARY]
    need = memory_need(plan.model, plan.shards, 1, cache, limits, False)
    table_bytes = 4 * n_rows * -(-limits.max_positions // page_size)
    masks_bytes = limits.max_logit_rows * (plan.config.vocab_size // 8)
    step_bytes = max_step_bytes(plan.config, limits, cache, vocab)
    assert need.other_bytes >= step_bytes + max_answer_bytes(limits, vocab) + table_bytes + masks_bytes
    assert step_bytes >= table_bytes
