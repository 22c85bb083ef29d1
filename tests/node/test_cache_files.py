"""The KV cache on disk: a file while it is used, none afterwards, whatever happened to its owner."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dllama.checkpoint import open_checkpoint
from dllama.dtypes import ElementType
from dllama.errors import UsageError
from dllama.kernels import Cpu
from dllama.model import CacheShape, CacheStorage, KvCache, PageGroup
from dllama.node import NodeSettings
from dllama.sharding import plan_spans
from support.endless import endless
from support.local_cluster import GOLDENS, LocalCluster
from support.processes import Running, inference, run_well
from support.sequences import CachedSequence, Run, Steps


def on_disk(folder: Path) -> list[object]:
    return ["--kv-cache-storage", "disk", "--kv-cache-dir", folder]


def test_same_logits_as_in_memory(tmp_path: Path) -> None:
    ids = [3, 1, 4, 1, 5, 9, 2, 6]
    logits = []
    for storage in (CacheStorage.RAM, CacheStorage.DISK):
        settings = NodeSettings(kv_storage=storage, kv_directory=tmp_path)
        with LocalCluster(GOLDENS / "llama-gqa", shares=(1, 1), node=settings) as cluster:
            assert len(list(tmp_path.iterdir())) == (2 if storage is CacheStorage.DISK else 0)
            Steps(cluster).step([Run(CachedSequence(), ids)])
            logits.append(cluster.whole_logits())
    np.testing.assert_array_equal(logits[0], logits[1])
    assert list(tmp_path.iterdir()) == []


def test_a_killed_owners_file_goes_at_the_next_start_and_a_living_ones_stays(tmp_path: Path) -> None:
    with Running(*endless(*on_disk(tmp_path))) as killed:
        killed.out.wait_for("Pred", 2)
        (orphan,) = tmp_path.iterdir()
        killed.kill()
    assert orphan.exists()
    with Running(*endless(*on_disk(tmp_path))) as living:
        living.out.wait_for("Pred", 2)
        living.pause()
        (used,) = tmp_path.iterdir()  # the orphan has gone
        assert used != orphan
        run_well(*inference(*on_disk(tmp_path), steps=8))
        assert list(tmp_path.iterdir()) == [used]


def test_other_files_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "dllama-kv-notes.txt").write_text("mine")
    (tmp_path / "model.cache").write_text("mine")
    run_well(*inference(*on_disk(tmp_path), steps=8))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dllama-kv-notes.txt", "model.cache"]


def test_no_such_directory(tmp_path: Path) -> None:
    model = open_checkpoint(GOLDENS / "llama-gqa").model
    group = PageGroup(window=None, n_pages=4)
    shape = CacheShape(groups=(group,), page_size=16, dtype=ElementType.F16)
    (spans,) = plan_spans(model.axes, [1.0]).ranks
    with pytest.raises(UsageError, match=r"absent: cannot make a file for the KV cache there"):
        KvCache(Cpu(1), model.config, spans, shape, CacheStorage.DISK, tmp_path / "absent")
