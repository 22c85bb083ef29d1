"""All ranks of a model as threads of this process: the Executor that laws about the forward pass are tested on."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dllama.checkpoint import Checkpoint, open_checkpoint
from dllama.dtypes import ElementType
from dllama.fabric import Fabric, local_fabrics
from dllama.kernels import Cpu, Device
from dllama.model import (
    CacheShape,
    Candidates,
    ModelConfig,
    PageGroup,
    ReducePlan,
    StepBatch,
    StepLimits,
    Transformer,
    merge_candidates,
    page_windows,
)
from dllama.node.input_rows import InputRows, encode_inputs, step_inputs
from dllama.node.loading import receive_weights, send_weights
from dllama.node.messages import SessionPlan
from dllama.node.rank import NodeSettings, RankMemory, default_cache_type
from dllama.sharding import plan_spans

TIMEOUT_S = 30.0
GOLDENS = Path(__file__).parent.parent / "goldens"
WITH_ROWS_OF_NO_BLOCKS = ("deepseek-v3", "glm4-moe-lite", "llama-odd", "qwen2-odd")
"""Goldens with matrices whose rows are no multiple of 32."""


class LocalCluster:
    """See Executor. Use it as a context manager. `devices`: one for each rank; none: cpus, of `n_threads` and `isa`."""

    def __init__(
        self,
        model: Path | Checkpoint,
        *,
        shares: Sequence[float] = (1.0,),
        weight_type: ElementType | None = ElementType.F32,
        wire: ElementType = ElementType.F32,
        cache_type: ElementType | None = None,
        devices: Sequence[Device] = (),
        n_threads: int = 1,
        isa: str | None = None,
        max_rows: int = 64,
        page_size: int = 16,
        n_pages: int | Sequence[int] = 24,
        node: NodeSettings | None = None,
        reduce_plan: ReducePlan | None = None,
    ) -> None:
        """`weight_type` is what the weights of a directory become; `n_pages` are those of each page group."""
        self._checkpoint = open_checkpoint(model, weight_type) if isinstance(model, Path) else model
        self.config: ModelConfig = self._checkpoint.config
        windows = page_windows(self.config)
        of_groups = [n_pages] * len(windows) if isinstance(n_pages, int) else n_pages
        self.cache = CacheShape(
            groups=tuple(PageGroup(window=w, n_pages=n) for w, n in zip(windows, of_groups, strict=True)),
            page_size=page_size,
            dtype=cache_type or default_cache_type(wire),
        )
        whole = [group.n_pages * page_size for group in self.cache.groups if group.window is None]
        self.max_rows = self.max_logit_rows = max_rows
        limits = StepLimits(
            max_rows=max_rows,
            max_logit_rows=max_rows,
            max_positions=min([self.config.max_seq_len, *whole]),
            wire=wire,
            timeout_s=TIMEOUT_S,
        )
        plans = [
            SessionPlan(
                session="",
                rank=rank,
                addresses=("",) * len(shares),
                model=self._checkpoint.model,
                shards=plan_spans(self._checkpoint.model.axes, shares),
                cache=self.cache,
                limits=limits,
            )
            for rank in range(len(shares))
        ]
        fabrics = local_fabrics(len(shares))
        self._reduce_plan = reduce_plan or ReducePlan()
        own = devices or [Cpu(n_threads, isa) for _ in plans]
        settings = node or NodeSettings()
        self._memories = [RankMemory(device, plan, settings) for device, plan in zip(own, plans, strict=True)]
        self._threads = ThreadPoolExecutor(len(shares))
        self._transformers: list[Transformer] = self._each(self._bring_up, plans, fabrics, self._memories)
        self._fabrics = fabrics

    def check(self) -> None:
        """Its nodes are threads of this process."""

    def step(self, batch: StepBatch) -> Candidates:
        inputs = encode_inputs(self._checkpoint.embed(batch.token_ids))
        parts = self._each(
            lambda transformer, fabric: transformer.forward(
                batch, step_inputs(_known_to(fabric, inputs), fabric)
            ),
            self._transformers,
            self._fabrics,
        )
        return merge_candidates(parts, batch.wanted)

    def whole_logits(self) -> NDArray[np.float32]:
        return np.concatenate([transformer.logits for transformer in self._transformers], axis=1)

    def hidden(self) -> NDArray[np.float32]:
        """Raises AssertionError when ranks differ."""
        first, *others = (transformer.hidden() for transformer in self._transformers)
        for other in others:
            np.testing.assert_array_equal(other, first)
        return first

    def __enter__(self) -> LocalCluster:
        return self

    def __exit__(self, *_: object) -> None:
        self._threads.shutdown()
        for memory in self._memories:
            memory.close()
        for fabric in self._fabrics:
            fabric.close()
        self._checkpoint.close()

    def _bring_up(self, plan: SessionPlan, fabric: Fabric, memory: RankMemory) -> Transformer:
        if plan.rank == 0:
            send_weights(
                self._checkpoint, plan.shards, fabric, memory.weights, TIMEOUT_S, lambda n_bytes: None
            )
        else:
            receive_weights(plan.model, plan.shards, fabric, memory.weights, TIMEOUT_S)
        return memory.transformer(fabric, self._reduce_plan)

    def _each(self, function, *arguments):  # type: ignore[no-untyped-def]
        return list(self._threads.map(function, *arguments))


def _known_to(fabric: Fabric, inputs: InputRows) -> InputRows:
    """What a rank has of them when a step begins."""
    if fabric.rank == 0 or not inputs.travel_apart:
        return inputs
    return InputRows(inputs.dtype, np.zeros_like(inputs.stored))
