"""What the root knows of each node: what the page, the API and reports show."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from dllama.fabric import Fabric
from dllama.model import cache_bytes
from dllama.node.messages import SessionPlan, Welcome
from dllama.node.timing import NodeTimes, Timeline


@dataclasses.dataclass(frozen=True, kw_only=True)
class NodeInfo:
    """One node as the root knows it.

    `share` is its part of the weights, 0 to 1. `memory_bytes` was free when the session began. `last` and `mean` (over
    the last steps) are null before the first step. Bytes are those on its link with the root; the root's are those on
    all of its links. `lost_since` (seconds since 1970) and `lost_reason` are null while the node is there.
    """

    rank: int
    name: str
    share: float
    weight_bytes: int
    kv_bytes: int
    n_threads: int
    isa: str
    memory_bytes: int
    last: NodeTimes | None = None
    mean: NodeTimes | None = None
    sent_bytes: int = 0
    received_bytes: int = 0
    lost_since: float | None = None
    lost_reason: str | None = None


class NodeRecords:
    """What stays as it is for a whole session is worked out once: it takes a look at every tensor of the model."""

    def __init__(self, plan: SessionPlan, names: Sequence[str], welcomes: Sequence[Welcome]) -> None:
        """`names` and `welcomes` have one entry for each rank."""
        spans = plan.shards.ranks
        weight_bytes = [plan.model.shard_bytes(of_rank) for of_rank in spans]
        self._nodes = [
            NodeInfo(
                rank=rank,
                name=names[rank],
                share=weight_bytes[rank] / sum(weight_bytes),
                weight_bytes=weight_bytes[rank],
                kv_bytes=cache_bytes(plan.config, spans[rank], plan.cache),
                n_threads=welcome.n_threads,
                isa=welcome.isa,
                memory_bytes=welcome.available_bytes,
            )
            for rank, welcome in enumerate(welcomes)
        ]

    def now(self, fabric: Fabric, timeline: Timeline) -> list[NodeInfo]:
        """All nodes in rank order, as of this moment. May be called from any thread."""
        sent, received, losses = fabric.sent_bytes, fabric.received_bytes, fabric.losses
        nodes = []
        for rank, node in enumerate(self._nodes):
            loss = losses.get(rank)
            nodes.append(
                dataclasses.replace(
                    node,
                    last=timeline.last(rank),
                    mean=timeline.mean(rank),
                    sent_bytes=received[rank] if rank else sum(sent),
                    received_bytes=sent[rank] if rank else sum(received),
                    lost_since=loss.since if loss else None,
                    lost_reason=loss.reason if loss else None,
                )
            )
        return nodes
