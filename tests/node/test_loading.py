"""Loading: every byte of every rank travels once, in the same order on both sides, whatever the spans."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dllama.checkpoint import open_checkpoint
from dllama.dtypes import ElementType
from dllama.node import loading
from dllama.sharding import plan_spans, shard_of
from support.local_cluster import GOLDENS, LocalCluster


@pytest.mark.parametrize("round_bytes", [3000, 50_000, 1 << 23])
@pytest.mark.parametrize("shares", [(1,), (1, 1, 1), (5, 1), (1, 3)], ids=str)
@pytest.mark.parametrize("name", ["llama-gqa", "qwen2-gqa-tied", "qwen3-shards"])
def test_rounds_cover_every_shard_once(
    name: str, shares: tuple[float, ...], round_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "_ROUND_BYTES", round_bytes)
    model = open_checkpoint(GOLDENS / name, ElementType.F16).model
    plan = plan_spans(model.axes, shares)
    got: list[dict[str, int]] = [{} for _ in shares]
    n_bytes = [0] * len(shares)
    for parts in loading.rounds(model, plan):
        assert len({part.shard.name for part in parts}) == 1
        widest_row = max(part.shard.row_bytes for part in parts)
        assert sum(part.n_bytes for part in parts) <= round_bytes + len(shares) * widest_row
        for rank, part in enumerate(parts):
            assert part.first_row == got[rank].get(part.shard.name, 0)  # in order, without gaps
            got[rank][part.shard.name] = part.first_row + part.n_rows
            n_bytes[rank] += part.n_bytes
    for rank, spans in enumerate(plan.ranks):
        assert got[rank] == {tensor.name: shard_of(tensor, spans).n_rows for tensor in model.held()}
        assert n_bytes[rank] == model.shard_bytes(spans)


@pytest.mark.parametrize("round_bytes", [500, 1 << 23])
def test_what_is_packed_is_what_the_file_has(round_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "_ROUND_BYTES", round_bytes)
    path: Path = GOLDENS / "llama-gqa"
    checkpoint = open_checkpoint(path, ElementType.Q80)
    with LocalCluster(path, weight_type=ElementType.Q80, shares=(2, 1, 1)) as cluster:
        for memory in cluster._memories:
            tensors, spans = checkpoint.tensors, memory.plan.shards.ranks[memory.plan.rank]
            for name, packed in (
                ("head", memory.weights.head),
                ("layers.1.down", memory.weights.layers[1].matrices["down"].matrices[0]),
            ):
                shard = shard_of(tensors[name], spans)
                rows, cols = shard.rows, shard.cols
                wanted = checkpoint.read(name, (rows.start, rows.stop), (cols.start, cols.stop))
                np.testing.assert_array_equal(packed.unpack(0, len(rows)), wanted)
