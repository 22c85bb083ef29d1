"""The KV cache of one rank: pages of positions, for the rank's own KV heads, in memory or in a mapped file."""

from __future__ import annotations

import collections
import enum
import errno
import fcntl
import math
import mmap
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from dllama.dtypes import ElementType, row_bytes
from dllama.errors import NotEnoughDiskError, UsageError
from dllama.formats.guarded_map import guarded_map
from dllama.kernels import Buffer, Device
from dllama.model.cache_shape import CacheShape
from dllama.model.config import ModelConfig
from dllama.model.layers import Layer
from dllama.sharding import RankSpans

_FILE_PREFIX = "dllama-kv-"
_NUMPY_TYPES: dict[ElementType, np.dtype[Any]] = {
    ElementType.F32: np.dtype(np.float32),
    ElementType.F16: np.dtype(np.float16),
    ElementType.Q80: np.dtype(np.uint8),
}
CACHE_TYPES = tuple(_NUMPY_TYPES)


class CacheStorage(enum.StrEnum):
    RAM = "ram"
    DISK = "disk"


def check_cache_type(dtype: ElementType, config: ModelConfig) -> None:
    """Raises UsageError when a head of the model is no whole number of the type's blocks."""
    widths = [width for width in cached_widths(config) if width % dtype.block]
    if widths:
        raise UsageError(
            f"a KV cache of {dtype.label} keeps blocks of {dtype.block} values, and a head of this model has "
            f"{widths[0]}: use f16",
            settings=("cache_type",),
        )


def cached_widths(config: ModelConfig) -> list[int]:
    """Numbers of a head that layers keep of each position, of those that keep any."""
    widths = [kind.mixer.cached_width for kind in config.kinds]
    return [width for width in widths if width is not None]


def cache_bytes(config: ModelConfig, spans: RankSpans, shape: CacheShape) -> int:
    """Bytes of all keys and values of one rank."""
    return sum(
        math.prod(_cache_dims(config.kinds[kind], spans, shape)) * n * _NUMPY_TYPES[shape.dtype].itemsize
        for kind, n in collections.Counter(config.layer_kinds).items()
    )


def context_bytes(config: ModelConfig, spans: RankSpans, dtype: ElementType, n_positions: int) -> int:
    """Bytes of the keys and values of one rank that a row attends to, with `n_positions` before it."""
    of_kind = []
    for kind in config.kinds:
        rows, window = kind.mixer.cache(spans), kind.mixer.window
        n_seen = n_positions if window is None else min(n_positions, window - 1)
        of_kind.append(rows.n_kept * n_seen * rows.n_heads * row_bytes(dtype, rows.width))
    return sum(of_kind[kind] for kind in config.layer_kinds)


class KvCache:
    """`layers[index]`: keys and values, or the one that a kind has for both, each [n_pages, K_local, page_size, E]
    float16 or float32, or for Q80 uint8 [n_pages, K_local, page_size, bytes of E / 32 blocks], n_pages those of the
    layer's page group, K_local and E those of its kind. Zeros at first."""

    def __init__(
        self,
        device: Device,
        config: ModelConfig,
        spans: RankSpans,
        shape: CacheShape,
        storage: CacheStorage = CacheStorage.RAM,
        directory: Path | None = None,
    ) -> None:
        """Raises NotEnoughDiskError or UsageError, with nothing left behind, when the file cannot be made."""
        dtype = _NUMPY_TYPES[shape.dtype]
        self.shape = shape
        self._file: _CacheFile | None = None
        self.layers: list[tuple[Buffer, ...]]
        shapes = [_cache_dims(config.layer(index), spans, shape) for index in range(config.n_layers)]
        n_bytes = cache_bytes(config, spans, shape)
        if storage is CacheStorage.DISK and n_bytes > 0:
            self._file = _CacheFile(directory, n_bytes)
            memory = np.frombuffer(self._file.map, dtype)
            borders = np.cumsum([math.prod(dims) for dims in shapes])[:-1]
            parts = zip(np.split(memory, borders), shapes, strict=True)
            self.layers = [tuple(map(device.bind, part.reshape(dims))) for part, dims in parts]
        else:
            self.layers = [
                tuple(device.buffer(*dims, dtype=dtype) for _ in range(n_kept)) for n_kept, *dims in shapes
            ]

    def close(self) -> None:
        """Gives the memory back and removes the file. The cache must not be used afterwards."""
        self.layers = []
        if self._file is not None:
            self._file.close()
            self._file = None


def _cache_dims(layer: Layer, spans: RankSpans, shape: CacheShape) -> tuple[int, ...]:
    """[kept rows, n_pages, K_local, page_size, E or bytes of its blocks]: 2 of a layer's keys and values."""
    rows, group = layer.mixer.cache(spans), shape.groups[shape.group_of(layer.mixer.window)]
    width = row_bytes(shape.dtype, rows.width) // _NUMPY_TYPES[shape.dtype].itemsize
    return rows.n_kept, group.n_pages, rows.n_heads, shape.page_size, width


class _CacheFile:
    """A mapped file that only this process uses: an exclusive lock tells a living owner from a crashed one."""

    def __init__(self, directory: Path | None, n_bytes: int) -> None:
        folder = directory or Path(tempfile.gettempdir())
        try:
            _remove_orphans(folder)
            self._fd, name = tempfile.mkstemp(prefix=_FILE_PREFIX, suffix=".cache", dir=folder)
        except OSError as error:
            raise UsageError(
                f"{folder}: cannot make a file for the KV cache there ({error.strerror})",
                settings=("cache_directory",),
            ) from error
        self._path = Path(name)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX)
            _allocate(self._fd, n_bytes)
            complaint = (
                f"{folder}: the KV cache there can no longer be used: see whether its disk is full or failing"
            )
            self.map = guarded_map(self._fd, n_bytes, mmap.ACCESS_WRITE, complaint)
        except OSError as error:
            os.close(self._fd)
            self._path.unlink(missing_ok=True)
            free = os.statvfs(folder)
            raise NotEnoughDiskError(
                f"{folder}: the KV cache needs {n_bytes / 1e6:.0f} MB there, "
                f"{free.f_bavail * free.f_frsize / 1e6:.0f} MB are free; choose another directory "
                f"or a shorter context",
                settings=("cache_directory", "max_seq_len"),
            ) from error

    def close(self) -> None:
        self._path.unlink(missing_ok=True)
        os.close(self._fd)
        # The map itself goes when the last array over it goes.


def _allocate(fd: int, n_bytes: int) -> None:
    """Reserves the blocks, so that a full disk is an error now and not a fault in the middle of a step. Raises OSError;
    nothing is reserved then, not even what there is."""
    disk = os.fstatvfs(fd)
    if n_bytes > disk.f_bavail * disk.f_frsize:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(fd, 0, n_bytes)
    else:
        os.ftruncate(fd, n_bytes)


def _remove_orphans(folder: Path) -> None:
    """Removes the cache files of processes that ended without removing them: those that nobody locks."""
    for path in folder.glob(f"{_FILE_PREFIX}*.cache"):
        try:
            fd = os.open(path, os.O_RDWR)
        except OSError:
            continue
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink(missing_ok=True)
        except OSError:
            pass  # its owner lives
        finally:
            os.close(fd)
