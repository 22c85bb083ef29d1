"""Measurement: well-known shapes, random weights, and speed beside the machine's limits."""

from dllama.bench.fabric import FabricReport, measure_fabric
from dllama.bench.kernels import KernelSpeed, measure_kernels, n_kernels
from dllama.bench.measure import Load, Speed, Spread, measure_speed
from dllama.bench.shapes import SHAPES, random_checkpoint, shape_named

__all__ = [
    "SHAPES",
    "FabricReport",
    "KernelSpeed",
    "Load",
    "Speed",
    "Spread",
    "measure_fabric",
    "measure_kernels",
    "measure_speed",
    "n_kernels",
    "random_checkpoint",
    "shape_named",
]
