"""Devices and what the native one is made of: a thread pool, packed weights, the operations of a forward pass.

`Device` is the seam that the forward pass is written against; `Cpu` and `Reference` are the devices (`device.py`).

`Compute(n_threads, isa=None)` owns threads and one instruction set; isa None takes the best that the CPU and the
system support (`supported_isas()`, best first), a name forces one (ValueError names what there is). Its methods are
the operations: each one call that releases the GIL and uses every thread. `PackedMatrix` holds weights in the
instruction set's layout, `PackedStack` matrices of one shape (those of experts), `Q80Rows` the quantised activations of
a matrix product, `RoutedRows` which experts the rows of a step go to.

Arrays are C-contiguous; `n_rows` says how many leading rows count. A wrong type is a TypeError, a wrong shape or index
a ValueError, and both name the argument. `BoundArray(array)` may stand for an array in every operation: its memory is
looked up once, not in each call; it keeps the array alive. `compute.record(call, *args)` checks the operations that the
call asks for and returns them as a `Program`, whose `run` carries them out in a row, with what is in the arrays then:
positions and pages are checked again each time. The value of an output element depends neither on the number
of threads nor on the other rows of the call. `oracle.py` says in NumPy what each operation computes.
"""

from dllama._native import (
    BoundArray,
    Compute,
    PackedMatrix,
    PackedStack,
    Q80Rows,
    RoutedRows,
    convert,
    cut_rows,
    merge_candidates,
    quantize,
    supported_isas,
)
from dllama.kernels.cpu import Cpu
from dllama.kernels.device import Buffer, Device, HostView, Matrix, MatrixStack, Program, Routes, Rows
from dllama.kernels.reference import Reference, decodes_weights

__all__ = [
    "BoundArray",
    "Buffer",
    "Compute",
    "Cpu",
    "Device",
    "HostView",
    "Matrix",
    "MatrixStack",
    "PackedMatrix",
    "PackedStack",
    "Program",
    "Q80Rows",
    "Reference",
    "RoutedRows",
    "Routes",
    "Rows",
    "convert",
    "cut_rows",
    "decodes_weights",
    "merge_candidates",
    "quantize",
    "supported_isas",
]
