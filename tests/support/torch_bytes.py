"""Files as `torch.save` writes them, without torch: an archive with a pickle of protocol 2, put together by hand."""

from __future__ import annotations

import math
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path

from support.quantised import Stored

_STORAGES = {"BF16": ("BFloat16Storage", 2), "F16": ("HalfStorage", 2), "F32": ("FloatStorage", 4)}


def write_torch_file(path: Path, tensors: Stored) -> None:
    pickle = b"\x80\x02}("
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for key, (name, (dtype, shape, data)) in enumerate(tensors.items()):
            pickle += _text(name) + _tensor(str(key), dtype, shape)
            archive.writestr(f"archive/data/{key}", data)
        archive.writestr("archive/data.pkl", pickle + b"u.")
        archive.writestr("archive/version", "3\n")


def _tensor(key: str, dtype: str, shape: list[int]) -> bytes:
    storage, _ = _STORAGES[dtype]
    strides = [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]
    of_storage = (
        _text("storage") + _global("torch", storage) + _text(key) + _text("cpu") + _int(math.prod(shape))
    )
    view = b"((" + of_storage + b"tQ" + _int(0) + _tuple(shape) + _tuple(strides) + b"\x89"
    return (
        _global("torch._utils", "_rebuild_tensor_v2") + view + _global("collections", "OrderedDict") + b")RtR"
    )


def _text(text: str) -> bytes:
    return b"X" + struct.pack("<I", len(text.encode())) + text.encode()


def _global(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


def _int(number: int) -> bytes:
    return b"J" + struct.pack("<i", number)


def _tuple(numbers: list[int]) -> bytes:
    return b"(" + b"".join(map(_int, numbers)) + b"t"


def shards_of(tensors: Stored, n: int, columns: Mapping[str, bool | None]) -> list[Stored]:
    """The tensors as `n` GPUs have them: `columns` says of each whether it is cut by columns, None: not at all."""
    shards: list[Stored] = [{} for _ in range(n)]
    for name, (dtype, shape, data) in tensors.items():
        size = len(data) // math.prod(shape)
        for number, shard in enumerate(shards):
            if columns[name] is None:
                shard[name] = dtype, shape, data
            elif columns[name]:
                width, own = shape[1] * size, shape[1] * size // n
                rows = [
                    data[at + number * own : at + (number + 1) * own] for at in range(0, len(data), width)
                ]
                shard[name] = dtype, [shape[0], shape[1] // n], b"".join(rows)
            else:
                own = len(data) // n
                shard[name] = dtype, [shape[0] // n, *shape[1:]], data[number * own : (number + 1) * own]
    return shards
