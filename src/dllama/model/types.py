"""The element type of each matrix of a model, as its source has them: types may be mixed freely."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

from dllama.dtypes import ElementType
from dllama.model.layer_runs import from_runs, to_runs

NamedTypes: TypeAlias = Mapping[str, ElementType]
"""Element types by the names of tensors, those of a layer without `layers.N.`"""

MATRIX_TYPES = tuple(dtype for dtype in ElementType if dtype is not ElementType.BF16)
"""Those that a matrix may have in memory: the kernels multiply them."""


@dataclasses.dataclass(frozen=True)
class TensorTypes:
    """Layers that are alike share one of `kinds`; `layers` says which each has. `outer` are the matrices outside of
    layers. Vectors have no place here: they are float32."""

    outer: NamedTypes
    kinds: tuple[NamedTypes, ...]
    layers: tuple[int, ...]

    @classmethod
    def of_layers(cls, outer: NamedTypes, layers: Iterable[NamedTypes]) -> TensorTypes:
        """From the types of each layer's matrices."""
        numbers: dict[tuple[tuple[str, ElementType], ...], int] = {}
        kinds: list[NamedTypes] = []
        indices = []
        for types in layers:
            number = numbers.setdefault(tuple(sorted(types.items())), len(kinds))
            if number == len(kinds):
                kinds.append(types)
            indices.append(number)
        return cls(outer, tuple(kinds), tuple(indices))

    @classmethod
    def of_names(cls, types: NamedTypes, n_layers: int) -> TensorTypes:
        """From the types of all matrices by their whole names."""
        layers: list[dict[str, ElementType]] = [{} for _ in range(n_layers)]
        outer = {}
        for name, dtype in types.items():
            prefix, _, rest = name.partition(".")
            if prefix == "layers":
                layer, _, part = rest.partition(".")
                layers[int(layer)][part] = dtype
            else:
                outer[name] = dtype
        return cls.of_layers(outer, layers)

    @property
    def all(self) -> list[ElementType]:
        """The types that there are, each once; those of layers first."""
        return list(dict.fromkeys(dtype for types in (*self.kinds, self.outer) for dtype in types.values()))

    @property
    def uniform(self) -> ElementType | None:
        """The one type of all matrices, if they have one."""
        return self.all[0] if len(self.all) == 1 else None

    @property
    def label(self) -> str:
        """`q40`, or `q4k and q6k`, or `q50, q4k and q6k`."""
        labels = [dtype.label for dtype in self.all]
        return " and ".join([", ".join(labels[:-1]), *labels[-1:]] if len(labels) > 1 else labels)

    @property
    def is_blocked(self) -> bool:
        """Whether any matrix takes quantised activations."""
        return any(dtype.is_blocked for dtype in self.all)

    def to_json(self) -> dict[str, Any]:
        """Small however many layers there are: those in a row that are alike are one pair of kind and number."""
        kinds = [_labels(types) for types in self.kinds]
        return {"outer": _labels(self.outer), "kinds": kinds, "layers": to_runs(self.layers)}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> TensorTypes:
        """The inverse of to_json. Raises KeyError, TypeError or ValueError on anything else."""
        kinds = tuple(_types(labels) for labels in values["kinds"])
        return cls(
            **values
            | {"outer": _types(values["outer"]), "kinds": kinds, "layers": from_runs(values["layers"])}
        )


def _labels(types: NamedTypes) -> dict[str, str]:
    return {name: dtype.label for name, dtype in types.items()}


def _types(labels: Mapping[str, str]) -> NamedTypes:
    return {name: ElementType.from_label(label) for name, label in labels.items()}
