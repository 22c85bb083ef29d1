"""What is known of each node: the root's own records, without a word on the wire."""

from __future__ import annotations

import time

import pytest

from dllama.errors import PeerLostError
from dllama.fabric import local_fabrics
from dllama.model import ModelSpec
from dllama.node import info
from dllama.node.info import NodeRecords
from dllama.node.messages import SessionPlan, Welcome
from dllama.node.timing import Timeline

TIMEOUT_S = 20.0
NAMES = ("root", "10.0.0.1:9998", "10.0.0.2:9998")


@pytest.fixture
def records(plan: SessionPlan) -> NodeRecords:
    welcome = Welcome(machine="m", available_bytes=1 << 30, n_threads=4, isa="avx2", kv_on_disk=False)
    return NodeRecords(plan, NAMES, [welcome] * 3)


def test_tensors_are_looked_at_once_a_session(records: NodeRecords, monkeypatch: pytest.MonkeyPatch) -> None:
    """The page asks each second, and a large model has thousands of tensors."""
    monkeypatch.setattr(ModelSpec, "shard_bytes", None)
    monkeypatch.setattr(info, "cache_bytes", None)
    fabric = local_fabrics(3)[0]
    for _ in range(2):
        nodes = records.now(fabric, Timeline())
        assert [node.name for node in nodes] == [*NAMES]
        assert sum(node.share for node in nodes) == pytest.approx(1)
        assert all(node.weight_bytes > 0 and node.kv_bytes > 0 for node in nodes)


def test_a_lost_node_says_since_when(records: NodeRecords) -> None:
    fabric, _, lost = local_fabrics(3)
    lost.close()
    before = time.time()
    with pytest.raises(PeerLostError):
        fabric.exchange([], [(2, bytearray(1))], TIMEOUT_S)
    root, other, node = records.now(fabric, Timeline())
    assert root.lost_since is other.lost_since is root.lost_reason is other.lost_reason is None
    assert node.lost_since is not None
    assert before <= node.lost_since <= time.time()
    assert node.lost_reason == "it closed the connection"
