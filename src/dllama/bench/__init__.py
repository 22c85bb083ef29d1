"""Measurement: well-known shapes, random weights, and speed beside the machine's limits."""

from dllama.bench.measure import Load, Speed, Spread, measure_speed
from dllama.bench.shapes import SHAPES, random_checkpoint, shape_named

__all__ = [
    "SHAPES",
    "Load",
    "Speed",
    "Spread",
    "measure_speed",
    "random_checkpoint",
    "shape_named",
]
