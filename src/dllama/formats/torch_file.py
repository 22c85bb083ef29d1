"""The tensors of a file of PyTorch (`.pth`), mapped.

`torch.save` writes a zip archive whose entries are not compressed: NAME/data.pkl, a pickle of what was saved, and the
elements of each storage as NAME/data/KEY. The pickle is read without running it (torch_pickle.py).
"""

from __future__ import annotations

import math
import struct
import zipfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dllama.errors import ModelFileError, UnsupportedModelError
from dllama.formats.mapped import MappedFile
from dllama.formats.safetensors import StoredTensor
from dllama.formats.torch_pickle import STORAGE_TYPES, StorageView, read_state_dict

_ZIP = b"PK\x03\x04"
_LARGEST_PICKLE_BYTES = 1 << 26
_ENTRY = struct.Struct("<26xHH")
"""Of an entry's header: the lengths of its name and of what follows it, before the data."""

_BYTES = dict(STORAGE_TYPES.values())


class TorchFile:
    """One mapped file: `tensors` by name, as SafetensorsFile has them."""

    def __init__(self, path: Path) -> None:
        """Raises ModelFileError naming the file where it is damaged, UnsupportedModelError for what is not read."""
        self.path = path
        self._map = MappedFile(path, _ZIP)
        if bytes(self._map.bytes[: len(_ZIP)]) != _ZIP:
            raise UnsupportedModelError(
                f"{path}: is no zip archive, as PyTorch writes since version 1.6; take the model's safetensors"
            )
        entries = _entries(self._map.bytes, path)
        views = self._read_pickle(entries)
        self.tensors = {name: self._tensor(name, view, entries) for name, view in views.items()}

    def bytes_of(self, name: str) -> NDArray[np.uint8]:
        """The tensor's bytes, uint8 [n], a view of the map."""
        tensor = self.tensors[name]
        return self._map.bytes[tensor.start : tensor.stop]

    def let_go(self) -> None:
        self._map.let_go()

    def check(self) -> None:
        """See MappedFile.check."""
        self._map.check()

    def close(self) -> None:
        self._map.close()

    def _read_pickle(self, entries: dict[str, range]) -> dict[str, StorageView]:
        where = entries.get("data.pkl")
        if where is None or len(where) > _LARGEST_PICKLE_BYTES:
            raise ModelFileError(
                f"{self.path}: has no data.pkl that can be one, so it is no file of PyTorch; download it again"
            )
        try:
            return read_state_dict(self._map.bytes[where.start : where.stop].tobytes())
        except ValueError as error:
            raise UnsupportedModelError(f"{self.path}: {' '.join(str(error).split())}") from error

    def _tensor(self, name: str, view: StorageView, entries: dict[str, range]) -> StoredTensor:
        size = _BYTES[view.storage.dtype]
        where = entries.get(f"data/{view.storage.key}")
        n_elements = math.prod(view.shape)
        if where is None or view.offset < 0 or min(view.shape, default=0) < 0:
            raise ModelFileError(f"{self.path}: lacks the elements of {name}; download it again")
        if (view.offset + n_elements) * size > len(where):
            raise ModelFileError(
                f"{self.path}: is damaged: {name} of shape {list(view.shape)} is larger than what is stored of it"
            )
        if n_elements > 1 and view.strides != _strides(view.shape):
            raise UnsupportedModelError(
                f"{self.path}: {name} is stored transposed, or as a part of another tensor"
            )
        start = where.start + view.offset * size
        return StoredTensor(name, view.storage.dtype, view.shape, start, start + n_elements * size)


def _strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Of rows one after another."""
    return tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))


def _entries(data: NDArray[np.uint8], path: Path) -> dict[str, range]:
    """The archive's entries by their names in its one folder: where their bytes are in the file."""
    try:
        with zipfile.ZipFile(path) as archive:
            infos = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise ModelFileError(f"{path}: is damaged or truncated ({error}); download it again") from error
    entries = {}
    for info in infos:
        head = data[info.header_offset : info.header_offset + _ENTRY.size]
        if info.compress_type != zipfile.ZIP_STORED or len(head) < _ENTRY.size:
            raise UnsupportedModelError(
                f"{path}: {info.filename} is compressed, as PyTorch does not write it"
            )
        n_name, n_more = _ENTRY.unpack(head.tobytes())
        start = info.header_offset + _ENTRY.size + n_name + n_more
        if start + info.file_size > len(data):
            raise ModelFileError(f"{path}: is truncated within {info.filename}; download it again")
        entries[info.filename.partition("/")[2]] = range(start, start + info.file_size)
    return entries
