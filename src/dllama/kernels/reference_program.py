"""Operations that the reference device carries out at once, or keeps while a program is recorded."""

from __future__ import annotations

import time
from collections.abc import Callable

from dllama.kernels.host_memory import HostMemory


class ReferenceProgram:
    """See Program."""

    def __init__(self) -> None:
        self._operations: list[Callable[[], None]] = []

    def add(self, operation: Callable[[], None]) -> None:
        self._operations.append(operation)

    def run(self) -> None:
        for operation in self._operations:
            operation()

    def __len__(self) -> int:
        return len(self._operations)


class Recorder(HostMemory):
    """What all operations of the reference device go through."""

    def __init__(self) -> None:
        self.native_s = 0.0
        self.attention_s = 0.0
        self._recording: ReferenceProgram | None = None

    def record(self, call: Callable[..., object], *args: object) -> ReferenceProgram:
        if self._recording is not None:
            raise ValueError("compute records already")
        self._recording = program = ReferenceProgram()
        try:
            call(*args)
        finally:
            self._recording = None
        return program

    def carry_out(self, operation: Callable[[], None]) -> None:
        """Carries the operation out, or keeps it while recording."""

        def timed() -> None:
            start_s = time.perf_counter()
            operation()
            self.native_s += time.perf_counter() - start_s

        if self._recording is None:
            timed()
        else:
            self._recording.add(timed)
