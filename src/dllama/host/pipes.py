"""Pipes to another process, with an end to every wait: the process may be stopped, swapped out, or never scheduled.

Both functions raise TimeoutError at `until_s`, a time of time.monotonic(), and go past the buffers of Python's streams.
"""

from __future__ import annotations

import os
import select
import time
from typing import IO


def write_all(stream: IO[bytes], data: bytes, until_s: float) -> None:
    """Raises BrokenPipeError where nobody reads any more."""
    os.set_blocking(stream.fileno(), False)
    rest = memoryview(data)
    while rest:
        _await(stream, select.POLLOUT, until_s)
        rest = rest[os.write(stream.fileno(), rest) :]


def read_exactly(stream: IO[bytes], n_bytes: int, until_s: float) -> bytes | None:
    """None where the stream ends before."""
    data = bytearray()
    while len(data) < n_bytes:
        _await(stream, select.POLLIN, until_s)
        part = os.read(stream.fileno(), n_bytes - len(data))
        if not part:
            return None
        data += part
    return bytes(data)


def _await(stream: IO[bytes], event: int, until_s: float) -> None:
    poll = select.poll()
    poll.register(stream.fileno(), event)
    if not poll.poll(max(0.0, until_s - time.monotonic()) * 1e3):
        raise TimeoutError
