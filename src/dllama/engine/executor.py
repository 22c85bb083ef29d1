"""What the engine needs of whatever computes: one node or a whole cluster."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from dllama.families import ModelConfig
from dllama.model import CacheShape, StepBatch


class Executor(Protocol):
    """Computes steps. `max_rows` and `max_logit_rows` bound one batch; `cache` says which pages there are."""

    @property
    def config(self) -> ModelConfig: ...
    @property
    def cache(self) -> CacheShape: ...
    @property
    def max_rows(self) -> int: ...
    @property
    def max_logit_rows(self) -> int: ...

    def step(self, batch: StepBatch) -> NDArray[np.float32]:
        """Logits [N, V] float32 of batch.logit_rows; the caller may keep the array until the next step.

        Raises PeerError when a node is lost: the executor is of no use afterwards.
        """
        ...
