"""The kinds of mixers and feed-forwards, one file each: numbers, tensors, cache, buffers and computation in it."""

from dllama.model.layers.attention import Attention
from dllama.model.layers.delta_net import DeltaNet
from dllama.model.layers.dense import Activation, Dense
from dllama.model.layers.experts import Experts
from dllama.model.layers.latent_attention import LatentAttention
from dllama.model.layers.layer import FeedForward, Layer, Mixer, normed_buffers
from dllama.model.layers.workspace import (
    AnyShape,
    BufferShape,
    CacheRows,
    LayerWeights,
    RowPlaces,
    StackedMatrices,
    TypeOf,
    Workspace,
    normed_buffer,
)

__all__ = [
    "Activation",
    "AnyShape",
    "Attention",
    "BufferShape",
    "CacheRows",
    "DeltaNet",
    "Dense",
    "Experts",
    "FeedForward",
    "LatentAttention",
    "Layer",
    "LayerWeights",
    "Mixer",
    "RowPlaces",
    "StackedMatrices",
    "TypeOf",
    "Workspace",
    "normed_buffer",
    "normed_buffers",
]
