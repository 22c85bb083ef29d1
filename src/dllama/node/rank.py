"""What every rank is made of, root or worker: its weights, its KV cache and the forward pass over them."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from dllama.dtypes import ElementType
from dllama.fabric import Fabric
from dllama.kernels import Device
from dllama.model import CacheStorage, KvCache, ModelWeights, ReducePlan, Transformer
from dllama.node.messages import SessionPlan


@dataclasses.dataclass(frozen=True, kw_only=True)
class NodeSettings:
    """What the person who starts a node decides for it alone."""

    kv_storage: CacheStorage = CacheStorage.RAM
    kv_directory: Path | None = None


class RankMemory:
    """Weights, cache and buffers of one rank, allocated here and given back by `close`, whoever still holds this."""

    def __init__(self, device: Device, plan: SessionPlan, settings: NodeSettings) -> None:
        self._device = device
        self.plan = plan
        self._spans = plan.shards.ranks[plan.rank]
        self.cache = KvCache(
            device, plan.config, self._spans, plan.cache, settings.kv_storage, settings.kv_directory
        )
        self._transformer: Transformer | None = None
        try:
            self.weights = ModelWeights(device, plan.model, self._spans)
        except BaseException:
            self.cache.close()
            raise

    def transformer(self, fabric: Fabric, reduce_plan: ReducePlan) -> Transformer:
        """The one forward pass over this memory, which `close` ends."""
        assert self._transformer is None, "one rank has one forward pass"
        plan = self.plan
        self._transformer = Transformer(
            self._device,
            plan.model,
            self._spans,
            self.weights,
            self.cache,
            fabric,
            plan.limits,
            reduce_plan,
        )
        return self._transformer

    def close(self) -> None:
        """To be called once, when the fabric has been closed."""
        if self._transformer is not None:
            self._transformer.close()
            self._transformer = None
        self.weights.close()
        self.cache.close()


def default_cache_type(wire: ElementType) -> ElementType:
    """Keys and values as exact as the buffers: float32 beside F32, else float16."""
    return ElementType.F32 if wire is ElementType.F32 else ElementType.F16
