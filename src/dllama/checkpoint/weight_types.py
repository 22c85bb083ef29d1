"""What each matrix of a model becomes where its weights are quantised to a type: most of them are of it.

What is small and costs most is spared (docs/quality.md): beside four bits the head is q80, which has a say in every
token, and so are values and the down projections of the last and the first layer, in this order, as far as matrices of
layers have no more than MOST_BITS on average.
"""

from __future__ import annotations

from collections.abc import Iterable

from dllama.dtypes import ElementType
from dllama.model import ModelConfig, ModelSpec, TensorTypes
from dllama.sharding import Tensor

MOST_BITS = 4.7
"""Bits of a weight that a token is multiplied with."""

M_WEIGHT_TYPES = (ElementType.Q40, ElementType.Q80, ElementType.F16, ElementType.F32)
"""Those of `.m` files, which have one for all matrices."""

WEIGHT_TYPES = (*M_WEIGHT_TYPES, ElementType.IQ4NL, ElementType.Q4K, ElementType.Q6K)
"""All that may be asked for."""

FOUR_BITS = (ElementType.Q40, ElementType.IQ4NL, ElementType.Q4K)
"""Coarse enough that it matters much which weights are rounded how."""

_ANY = ElementType.F16
_SPARING = (ElementType.IQ4NL, ElementType.Q4K)
_FOR_SHORT_ROWS = {ElementType.Q4K: ElementType.IQ4NL, ElementType.Q6K: ElementType.Q80}
"""What takes the place of types whose blocks are long where rows are no whole blocks: types of blocks of 32."""


def model_of_type(config: ModelConfig, weight_type: ElementType) -> ModelSpec:
    """The model with its weights quantised to `weight_type`."""
    model = _model(config, weight_type, {})
    if weight_type not in _SPARING:
        return model
    spared: dict[str, set[int]] = {}
    last = config.n_layers - 1
    for name, layers in (("v", range(config.n_layers)), ("down", [last]), ("down", [0])):
        more = spared | {name: spared.get(name, set()) | set(layers)}
        with_more = _model(config, weight_type, more)
        if bits_of_layers(with_more) <= MOST_BITS:
            model, spared = with_more, more
    return model


def bits_of_layers(model: ModelSpec) -> float:
    """Of each weight of the layers' matrices that a token is multiplied with, on average."""
    bits = weights = 0.0
    for tensors, n in model.alike:
        for tensor in tensors:
            if tensor.is_packed and tensor.name != "head":
                bits += n * tensor.elements_of_row * 8 * tensor.dtype.block_bytes / tensor.dtype.block
                weights += n * tensor.elements_of_row
    return bits / weights


def _model(config: ModelConfig, weight_type: ElementType, spared: dict[str, set[int]]) -> ModelSpec:
    """`spared`: in which layers a matrix, by its name, is q80."""
    plain = ModelSpec.uniform(config, _ANY)
    kinds = [
        {tensor.name: _fitting(weight_type, tensor) for tensor in plain.layer(index) if tensor.is_packed}
        for index in _first_of_kinds(config)
    ]
    layers = []
    for index, kind in enumerate(config.layer_kinds):
        own = {name: ElementType.Q80 for name, of in spared.items() if index in of and name in kinds[kind]}
        layers.append(kinds[kind] | own)
    (head,) = (tensor for tensor in plain.outer if tensor.is_packed)
    of_head = ElementType.Q80 if weight_type in _SPARING else _fitting(weight_type, head)
    return ModelSpec(config, TensorTypes.of_layers({head.name: of_head}, layers))


def _first_of_kinds(config: ModelConfig) -> Iterable[int]:
    """The first layer of each kind."""
    return [config.layer_kinds.index(kind) for kind in range(len(config.kinds))]


def _fitting(weight_type: ElementType, tensor: Tensor) -> ElementType:
    if tensor.dtype is not _ANY:
        return tensor.dtype  # it may have no other
    fits = tensor.n_cols % weight_type.block == 0
    return weight_type if fits else _FOR_SHORT_ROWS.get(weight_type, weight_type)
