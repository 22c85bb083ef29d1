"""A KV cache of Q80 blocks: the laws of the forward pass hold on it, and rounding is all that it changes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dllama.checkpoint import open_checkpoint
from dllama.dtypes import ElementType
from dllama.errors import UsageError
from dllama.model import CacheStorage, check_cache_type
from dllama.node import NodeSettings
from support.local_cluster import GOLDENS, LocalCluster

from .test_laws import PROMPT, Steps, all_logits, assert_same_bits

WHOLE_BLOCKS = ("llama-head-dim", "qwen3-wide-heads")


@pytest.mark.parametrize("name", WHOLE_BLOCKS)
def test_chunks_and_threads_change_nothing(name: str) -> None:
    results = []
    for n_threads, chunks in ((1, [len(PROMPT)]), (1, [1]), (2, [7, 1]), (3, [16, 3])):
        with LocalCluster(GOLDENS / name, cache_type=ElementType.Q80, n_threads=n_threads) as cluster:
            results.append(all_logits(Steps(cluster), PROMPT, chunks))
    for result in results[1:]:
        assert_same_bits(result, results[0])


@pytest.mark.parametrize("name", WHOLE_BLOCKS)
def test_two_ranks_give_the_logits_of_one(name: str) -> None:
    """Sums of two ranks round otherwise in float32, which may move a number of a key or value to the next of 127
    steps: one for each layer, at the most, among so few."""
    results = []
    for shares in ((1,), (2, 1)):
        with LocalCluster(GOLDENS / name, shares=shares, cache_type=ElementType.Q80) as cluster:
            results.append(all_logits(Steps(cluster), PROMPT, [len(PROMPT)]))
            bound = cluster.config.n_layers / 127
    relative = np.linalg.norm(results[1] - results[0], axis=1) / np.linalg.norm(results[0], axis=1)
    assert relative.max() <= bound, (int(np.argmax(relative)), relative.max(), bound)


def test_on_disk_as_in_memory(tmp_path: Path) -> None:
    results = []
    for storage in CacheStorage:
        node = NodeSettings(kv_storage=storage, kv_directory=tmp_path)
        with LocalCluster(GOLDENS / "llama-head-dim", cache_type=ElementType.Q80, node=node) as cluster:
            results.append(all_logits(Steps(cluster), PROMPT, [5]))
    assert_same_bits(results[1], results[0])


def test_heads_that_are_no_whole_blocks() -> None:
    config = open_checkpoint(GOLDENS / "llama-gqa", ElementType.F32).config
    check_cache_type(ElementType.F16, config)
    with pytest.raises(UsageError, match=r"a KV cache of q80 keeps blocks of 32 .* has 16: use f16"):
        check_cache_type(ElementType.Q80, config)
