"""What a model is, whatever file it came from: sizes, and a short list of the kinds of layers that it is built of."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

import numpy as np

from dllama.model.layer_runs import from_runs, to_runs
from dllama.model.layers import Layer
from dllama.model.limits import fault_in_sizes
from dllama.model.norm import NormKind


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """D `dim`, L `n_layers`, V `vocab_size`. Layer i is of the kind `kinds[layer_kinds[i]]`.

    `final_norm`: the kind of the one before the head. `embedding_scale`: by what the embedded tokens are multiplied.
    `logit_scale`: by what logits are multiplied. `logit_soft_cap` c: logits l are then c tanh(l / c)
    (arXiv:2408.00118); None: as they are.
    """

    family: str
    dim: int
    vocab_size: int
    max_seq_len: int
    norm_eps: float
    kinds: tuple[Layer, ...]
    layer_kinds: tuple[int, ...]
    final_norm: NormKind = NormKind.RMS
    embedding_scale: float = 1.0
    logit_scale: float = 1.0
    logit_soft_cap: float | None = None

    @classmethod
    def of_layers(cls, layers: Iterable[Layer], **numbers: Any) -> ModelConfig:
        """From the list of all layers, in their order; `numbers` are the other fields."""
        kinds: dict[Layer, int] = {}
        layer_kinds = tuple(kinds.setdefault(layer, len(kinds)) for layer in layers)
        return cls(kinds=tuple(kinds), layer_kinds=layer_kinds, **numbers)

    @property
    def n_layers(self) -> int:
        return len(self.layer_kinds)

    @property
    def has_states(self) -> bool:
        """Whether layers keep something of a sequence beside its pages."""
        return any(kind.mixer.has_states for kind in self.kinds)

    def layer(self, index: int) -> Layer:
        return self.kinds[self.layer_kinds[index]]

    def fault(self) -> str | None:
        """What is impossible in it, as the end of a sentence, or None when it is sound."""
        if not all(0 <= kind < len(self.kinds) for kind in self.layer_kinds):
            return "a layer is of no kind"
        sizes = {"dim": self.dim, "n_layers": self.n_layers}
        sizes |= {"vocab_size": self.vocab_size, "max_seq_len": self.max_seq_len}
        fault = fault_in_sizes(**sizes)
        if fault is None and not 1e-30 < self.norm_eps < 1:
            fault = f"norm_eps is {self.norm_eps}, which cannot be (between 0 and 1)"
        for name in ("embedding_scale", "logit_scale", "logit_soft_cap"):
            factor = getattr(self, name)
            if fault is None and factor is not None and not 1e-10 < factor < 1e10:
                fault = f"{name} is {factor}, which cannot be (above 0)"
        faults = (kind.fault() for kind in self.kinds)
        return fault or next((fault for fault in faults if fault), None)

    def to_json(self) -> dict[str, Any]:
        """Small however many layers there are: those in a row that are alike are one pair of kind and number."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        kinds = [kind.to_json() for kind in self.kinds]
        return values | {"kinds": kinds, "layer_kinds": to_runs(self.layer_kinds)}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> ModelConfig:
        """The inverse of to_json. Raises KeyError, TypeError or ValueError on anything else."""
        kinds = tuple(Layer.from_json(kind) for kind in values["kinds"])
        layer_kinds, final_norm = from_runs(values["layer_kinds"]), NormKind(values["final_norm"])
        return cls(**values | {"kinds": kinds, "layer_kinds": layer_kinds, "final_norm": final_norm})


def shortest_float32(value: float | np.float32) -> float:
    """The shortest decimal number of those that are the same float32: 9.999999747378752e-06 is 1e-05."""
    with np.errstate(over="ignore"):  # too large is infinite, which is refused
        return float(str(np.float32(value)))
