"""Measurement: well-known shapes, random weights, and speed beside the machine's limits."""

from dllama.bench.fabric import FabricReport, measure_fabric
from dllama.bench.measure import Load, Speed, Spread, measure_speed
from dllama.bench.shapes import SHAPES, random_checkpoint, shape_named

__all__ = [
    "SHAPES",
    "FabricReport",
    "Load",
    "Speed",
    "Spread",
    "measure_fabric",
    "measure_speed",
    "random_checkpoint",
    "shape_named",
]
