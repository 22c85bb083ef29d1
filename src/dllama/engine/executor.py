"""What the engine needs of whatever computes: one node or a whole cluster."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from dllama.model import CacheShape, Candidates, ModelConfig, StepBatch


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

    def step(self, batch: StepBatch) -> Candidates:
        """What batch.wanted asks for, in arrays that the caller may keep.

        Raises PeerError when a node is lost: the executor is of no use afterwards.
        """
        ...

    def check(self) -> None:
        """Raises PeerError when a node is known to be lost, which may come out between steps; nothing travels."""
        ...

    def whole_logits(self) -> NDArray[np.float32]:
        """[N, V] of the rows wanted by the last step, after edits and masks; the caller may keep it.

        For when candidates do not reach, which is rare: all of it travels. Raises what `step` raises.
        """
        ...

    def hidden(self) -> NDArray[np.float32]:
        """[T, D]: all rows of the last step after the model's final norm; the caller may keep it."""
        ...
