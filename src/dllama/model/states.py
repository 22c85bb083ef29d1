"""What layers keep in place of keys and values of each position: a state of fixed size (recurrence, convolution).

A page of positions has one, that behind the last row in it so far. A text that goes on into its next page leaves the
state at the border behind, so that others can go on from there: states are pages like those of a layer with a window
(model/cache_shape.py), and nothing else knows of them.
"""

from __future__ import annotations

import collections
import math

from dllama.kernels import Buffer, Device
from dllama.model.cache_shape import CacheShape
from dllama.model.config import ModelConfig
from dllama.model.layers import Layer
from dllama.sharding import RankSpans

_FLOAT_BYTES = 4


def state_bytes(config: ModelConfig, spans: RankSpans, shape: CacheShape) -> int:
    """Bytes of all states of one rank."""
    kinds = collections.Counter(config.layer_kinds)
    return sum(n * _layer_bytes(config.kinds[kind], spans, shape) for kind, n in kinds.items())


class States:
    """`layers[index]`: what the layer's mixer asks for, each [n_pages, ...] float32; nothing for most."""

    def __init__(self, device: Device, config: ModelConfig, spans: RankSpans, shape: CacheShape) -> None:
        layers = [config.layer(index) for index in range(config.n_layers)]
        self.layers: list[tuple[Buffer, ...]] = [
            tuple(device.buffer(_n_pages(layer, shape), *dims) for dims in layer.mixer.states(spans))
            for layer in layers
        ]

    def close(self) -> None:
        """Gives the memory back."""
        self.layers.clear()


def _layer_bytes(layer: Layer, spans: RankSpans, shape: CacheShape) -> int:
    n_floats = sum(math.prod(dims) for dims in layer.mixer.states(spans))
    return _FLOAT_BYTES * n_floats * _n_pages(layer, shape)


def _n_pages(layer: Layer, shape: CacheShape) -> int:
    return shape.groups[shape.group_of(layer.mixer.window)].n_pages
