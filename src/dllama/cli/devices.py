"""What this node computes on, from its flags."""

from __future__ import annotations

import argparse
import enum

from dllama.errors import UsageError
from dllama.kernels import Cpu, Device, Reference
from dllama.node import use_processors


class DeviceKind(enum.StrEnum):
    CPU = "cpu"
    REFERENCE = "reference"


def add_device_flag(flags: argparse._ActionsContainer) -> None:
    flags.add_argument(
        "--device",
        choices=[str(kind) for kind in DeviceKind],
        default=str(DeviceKind.CPU),
        help="what this node computes on; reference is for developers: float32 in NumPy, slow, to compare with"
        " (default %(default)s)",
    )


def make_device(kind: DeviceKind, n_threads: int, isa: str | None) -> Device:
    """Raises UsageError when this computer has no such instruction set, or cannot run so many threads."""
    return Reference() if kind is DeviceKind.REFERENCE else make_cpu(n_threads, isa)


def make_cpu(n_threads: int, isa: str | None) -> Cpu:
    """See make_device."""
    use_processors(n_threads)
    try:
        return Cpu(n_threads, isa)
    except ValueError as error:
        flags = f"--nthreads {n_threads}" + (f", DLLAMA_ISA={isa}" if isa else "")
        raise UsageError(f"{flags}: {error}") from error
