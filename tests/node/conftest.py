"""A plan as a root sends it."""

from __future__ import annotations

import pytest

from dllama.checkpoint import open_checkpoint
from dllama.dtypes import ElementType
from dllama.model import CacheShape, PageGroup, StepLimits, page_windows
from dllama.node.messages import SessionPlan
from dllama.sharding import plan_spans
from support.local_cluster import GOLDENS


def make_plan(
    name: str = "llama-gqa", weight_type: ElementType = ElementType.Q40, n_ranks: int = 3
) -> SessionPlan:
    model = open_checkpoint(GOLDENS / name, weight_type).model
    shards = plan_spans(model.axes, [1.0] * n_ranks)
    return SessionPlan(
        session="abc",
        rank=1,
        addresses=("", *(f"10.0.0.{rank}:9990" for rank in range(1, n_ranks))),
        model=model,
        shards=shards,
        cache=CacheShape(
            groups=tuple(PageGroup(window=window, n_pages=7) for window in page_windows(model.config)),
            page_size=16,
            dtype=ElementType.F16,
        ),
        limits=StepLimits(
            max_rows=16, max_logit_rows=4, max_positions=100, wire=ElementType.Q80, timeout_s=5.0
        ),
    )


@pytest.fixture(scope="session")
def plan() -> SessionPlan:
    return make_plan()
