"""Blocks of 256 weights cut over any number of nodes: heads and columns lie where they please, and nothing changes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from dllama.checkpoint import open_checkpoint
from dllama.dtypes import ElementType
from dllama.kernels import Cpu, Device, PackedMatrix, PackedStack, Reference, oracle
from dllama.kernels.cut_blocks import decode_cut
from dllama.kernels.reference_experts import ReferenceStack
from dllama.kernels.reference_matrix import ReferenceMatrix
from dllama.sharding import Shard, largest_node_count, plan_spans, shard_of
from support.k_types import write_k_model
from support.local_cluster import LocalCluster
from support.sequences import CachedSequence, Run, Steps, Want

IDS = [5, 9, 200, 31, 77, 4, 150, 63, 12, 99, 181, 7, 8]
SHARES = {"2": (1, 1), "3": (1, 1, 1), "3:1:1": (3, 1, 1), "5": (1,) * 5, "8": (1,) * 8}


@pytest.fixture(scope="module", params=["dense", "experts"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Heads of 96 and a feed-forward of five blocks; experts as wide as Qwen3-30B-A3B's."""
    path = tmp_path_factory.mktemp(request.param) / "model.gguf"
    if request.param == "dense":
        return write_k_model(path, n_heads=8, head_dim=96, ffn_dim=1280)
    return write_k_model(path, n_heads=8, head_dim=64, ffn_dim=768, n_experts=5)


def logits_of(
    path: Path, shares: Sequence[float], device: type[Device], weight_type: ElementType | None = None
) -> NDArray[np.float32]:
    devices = [Reference() if device is Reference else Cpu(1) for _ in shares]
    with LocalCluster(path, shares=shares, weight_type=weight_type, devices=devices) as cluster:
        steps = Steps(cluster)
        steps.step([Run(CachedSequence(), IDS, Want.ALL)])
        return steps.whole_logits().copy()


@pytest.mark.parametrize("shares", SHARES.values(), ids=SHARES)
def test_nodes_compute_what_one_node_computes(model: Path, shares: Sequence[float]) -> None:
    """With the reference, whose sums differ in their order alone."""
    wanted, got = logits_of(model, (1,), Reference), logits_of(model, shares, Reference)
    assert np.abs(got - wanted).max() <= 1e-4 * np.abs(wanted).max()


@pytest.mark.parametrize("shares", [(1,), *SHARES.values()], ids=["1", *SHARES])
def test_logits_differ_by_the_rounding_of_activations_only(model: Path, shares: Sequence[float]) -> None:
    """As in test_mixed_types.py: one step for each of the four inputs of a layer's products, and for the head's."""
    exact, got = logits_of(model, (1,), Cpu, ElementType.F32), logits_of(model, shares, Cpu)
    relative = np.linalg.norm(got - exact) / np.linalg.norm(exact)
    assert 0 < relative <= (2 * 4 + 1) / 127


@pytest.mark.parametrize("device", [Cpu, Reference])
@pytest.mark.parametrize("shares", SHARES.values(), ids=SHARES)
def test_a_rank_holds_what_the_file_has(model: Path, shares: Sequence[float], device: type[Device]) -> None:
    """Value by value, in as many bytes as the plan says."""
    checkpoint = open_checkpoint(model)
    devices = [Reference() if device is Reference else Cpu(1) for _ in shares]
    with LocalCluster(model, shares=shares, weight_type=None, devices=devices) as cluster:
        for memory in cluster._memories:
            spans = memory.plan.shards.ranks[memory.plan.rank]
            for index, layer in enumerate(memory.weights.layers):
                for name in ("o", "down", "experts_down"):
                    tensor = checkpoint.tensors.get(f"layers.{index}.{name}")
                    if tensor is None:
                        continue
                    shard = shard_of(tensor, spans)
                    whole = checkpoint.read(tensor.name, (0, tensor.stacked_rows), (0, tensor.n_cols))
                    wanted = oracle.decode(tensor.dtype, whole, tensor.n_cols)
                    held = layer.stacks.get(name) or layer.matrices[name].matrices[0]
                    got = values_of(held, shard)
                    np.testing.assert_array_equal(got, wanted[:, shard.cols.start : shard.cols.stop])
                    if device is Cpu:
                        assert held.nbytes == shard.n_bytes  # 256 rows are whole tiles
    checkpoint.close()


def values_of(held: object, shard: Shard) -> NDArray[np.float32]:
    if isinstance(held, ReferenceMatrix):
        return held.values
    if isinstance(held, ReferenceStack):
        return np.concatenate([matrix.values for matrix in held._matrices])
    if isinstance(held, PackedMatrix):
        data = held.unpack(0, held.n_out)
    else:
        assert isinstance(held, PackedStack)
        data = np.concatenate([held.unpack(index, 0, held.n_out) for index in range(held.n_matrices)])
    return decode_cut(shard.tensor.dtype, data, shard.cols.start, shard.cols.stop)


@pytest.mark.parametrize(
    ("n_heads", "head_dim", "ffn_dim", "most"),
    [(8, 32, 768, 8), (12, 64, 768, 12), (8, 96, 1280, 8), (14, 128, 256, 8)],
)
def test_there_may_be_as_many_nodes_as_heads_or_runs_of_32_columns(
    tmp_path: Path, n_heads: int, head_dim: int, ffn_dim: int, most: int
) -> None:
    path = write_k_model(tmp_path / "model.gguf", n_heads=n_heads, head_dim=head_dim, ffn_dim=ffn_dim)
    model = open_checkpoint(path).model
    assert largest_node_count(model.axes) == most
    for n in range(1, most + 1):
        ranks = plan_spans(model.axes, [1.0] * n).ranks
        for axis in model.axes[:2]:  # heads, and columns in runs of 32
            lengths = [len(spans[axis.name]) // axis.unit for spans in ranks]
            assert max(lengths) - min(lengths) <= 1
    wanted, got = logits_of(path, (1,), Reference), logits_of(path, (1,) * most, Reference)
    assert np.abs(got - wanted).max() <= 1e-4 * np.abs(wanted).max()
