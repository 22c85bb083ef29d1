"""The tensors of a model, in the order of the `.m` file: names, shapes, element types, cuts."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

from dllama.dtypes import ElementType
from dllama.model.config import ModelConfig
from dllama.model.layers import Layer, TypeOf
from dllama.model.types import NamedTypes, TensorTypes
from dllama.sharding import Along, Axis, Cut, RankSpans, Tensor, axes_of, shard_of

VOCABULARY = "vocabulary rows"
"""The axis along which the head is cut."""


@dataclasses.dataclass(frozen=True)
class ModelSpec:
    """What a model is made of: its config, and the element types of its matrices.

    What is said of its tensors as a whole is worked out once for each kind of layer, however many layers there are.
    """

    config: ModelConfig
    types: TensorTypes

    @classmethod
    def uniform(cls, config: ModelConfig, dtype: ElementType) -> ModelSpec:
        """All matrices that may have any type have this one."""
        kinds = [_matrix_types(layer.tensors(config.dim, lambda _: dtype)) for layer in config.kinds]
        outer = _matrix_types([_head(config, dtype)])
        return cls(config, TensorTypes.of_layers(outer, [kinds[kind] for kind in config.layer_kinds]))

    def to_json(self) -> dict[str, Any]:
        return {"config": self.config.to_json(), "types": self.types.to_json()}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> ModelSpec:
        """The inverse of to_json. Raises KeyError, TypeError or ValueError on anything else."""
        config, types = ModelConfig.from_json(values["config"]), TensorTypes.from_json(values["types"])
        return cls(**values | {"config": config, "types": types})

    def __iter__(self) -> Iterator[Tensor]:
        """All tensors. The embedding, the biases and the norms are F32. The head is always there, also where it is the
        embedding's copy."""
        yield Tensor("embedding", (self.config.vocab_size, self.config.dim), ElementType.F32)
        yield from self.held()

    def held(self) -> Iterator[Tensor]:
        """Those that ranks hold: the embedding stays with the root's file."""
        for index in range(self.config.n_layers):
            for tensor in self.layer(index):
                yield tensor.named(f"layers.{index}.{tensor.name}")
        yield from self.outer

    @functools.cached_property
    def by_name(self) -> Mapping[str, Tensor]:
        """All tensors, in their order."""
        return MappingProxyType({tensor.name: tensor for tensor in self})

    def layer(self, index: int) -> tuple[Tensor, ...]:
        """Those of one layer, without `layers.N.` in their names; the same object for layers that are alike."""
        return self._kinds[self.config.layer_kinds[index], self.types.layers[index]]

    def layer_kinds(self) -> list[tuple[Layer, TypeOf]]:
        """Each kind of layer with each set of types that layers of it have."""
        kinds, types = self.config.kinds, self.types.kinds
        return [(kinds[kind], types[of].__getitem__) for kind, of in self._kinds]

    @functools.cached_property
    def outer(self) -> tuple[Tensor, ...]:
        """Those that ranks hold outside of layers."""
        norm = self.config.final_norm.tensors("final_norm", self.config.dim)
        return *norm, _head(self.config, self.types.outer["head"])

    @functools.cached_property
    def alike(self) -> list[tuple[tuple[Tensor, ...], int]]:
        """All that ranks hold: tensors, and how many times they are there."""
        counts: dict[tuple[int, int], int] = {}
        for kind in zip(self.config.layer_kinds, self.types.layers, strict=True):
            counts[kind] = counts.get(kind, 0) + 1
        return [(self._kinds[kind], n) for kind, n in counts.items()] + [(self.outer, 1)]

    @functools.cached_property
    def axes(self) -> tuple[Axis, ...]:
        """All that is divided among ranks. Raises ValueError where tensors contradict each other."""
        return axes_of(tensor for tensors, _ in self.alike for tensor in tensors)

    def shard_bytes(self, spans: RankSpans) -> int:
        """Bytes of all weights that a rank with these spans holds."""
        return sum(n * shard_of(tensor, spans).n_bytes for tensors, n in self.alike for tensor in tensors)

    def shard_elements(self, spans: RankSpans) -> int:
        """How many weights such a rank holds."""
        return sum(n * shard_of(tensor, spans).n_elements for tensors, n in self.alike for tensor in tensors)

    def read_bytes(self, spans: RankSpans, n_rows: int) -> int:
        """Bytes of weights that such a rank reads in a step of so many rows."""
        return round(
            sum(
                n * shard_of(tensor, spans).n_bytes * tensor.part_read(n_rows)
                for tensors, n in self.alike
                for tensor in tensors
            )
        )

    @functools.cached_property
    def _kinds(self) -> dict[tuple[int, int], tuple[Tensor, ...]]:
        """By the numbers of a layer's kind and of its types."""
        dim, kinds, types = self.config.dim, self.config.kinds, self.types.kinds
        pairs = dict.fromkeys(zip(self.config.layer_kinds, self.types.layers, strict=True))
        return {(kind, of): tuple(kinds[kind].tensors(dim, types[of].__getitem__)) for kind, of in pairs}


def _matrix_types(tensors: Iterable[Tensor]) -> NamedTypes:
    return {tensor.name: tensor.dtype for tensor in tensors if tensor.is_packed}


def _head(config: ModelConfig, dtype: ElementType) -> Tensor:
    return Tensor("head", (config.vocab_size, config.dim), dtype, Cut(VOCABULARY, Along.ROWS))
