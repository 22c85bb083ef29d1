"""GGUF files for tests, put together by hand: sound ones, and any damage."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

from dllama.formats.gguf import GgmlType, ValueType

LAYOUTS = {
    ValueType.UINT8: "<B",
    ValueType.INT8: "<b",
    ValueType.UINT16: "<H",
    ValueType.INT16: "<h",
    ValueType.UINT32: "<I",
    ValueType.INT32: "<i",
    ValueType.FLOAT32: "<f",
    ValueType.BOOL: "<B",
    ValueType.UINT64: "<Q",
    ValueType.INT64: "<q",
    ValueType.FLOAT64: "<d",
}


def text(content: str | bytes, n_bytes: int | None = None) -> bytes:
    """`n_bytes`: the length that it says, when not its own."""
    data = content.encode() if isinstance(content, str) else content
    return struct.pack("<Q", len(data) if n_bytes is None else n_bytes) + data


def scalar(kind: int, value: Any) -> bytes:
    return text(value) if kind == ValueType.STRING else struct.pack(LAYOUTS[ValueType(kind)], value)


def key(name: str | bytes, kind: int, value: Any) -> bytes:
    return text(name) + struct.pack("<I", kind) + scalar(kind, value)


def array(name: str | bytes, kind: int, values: Sequence[Any], n: int | None = None) -> bytes:
    """`n`: the number that it says, when not its own."""
    head = struct.pack("<IIQ", ValueType.ARRAY, kind, len(values) if n is None else n)
    return text(name) + head + b"".join(scalar(kind, value) for value in values)


def tensor(name: str | bytes, dims: Sequence[int], ggml_type: int = GgmlType.F32, offset: int = 0) -> bytes:
    """`dims` as in the file, the fastest first."""
    return text(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, ggml_type, offset)


def gguf_file(
    keys: Sequence[bytes] = (),
    tensors: Sequence[bytes] = (),
    data: bytes = b"",
    *,
    version: int = 3,
    alignment: int = 32,
    n_tensors: int | None = None,
    n_keys: int | None = None,
) -> bytes:
    counts = struct.pack(
        "<QQ",
        len(tensors) if n_tensors is None else n_tensors,
        len(keys) if n_keys is None else n_keys,
    )
    header = b"GGUF" + struct.pack("<I", version) + counts + b"".join(keys) + b"".join(tensors)
    return header + bytes(-len(header) % alignment) + data if data else header


def split_part(number: int, n_parts: int, n_tensors: int, tensors: Sequence[bytes], data: bytes) -> bytes:
    """Part `number`, from 0, of a model of `n_tensors` tensors."""
    keys = [
        key("split.no", ValueType.UINT16, number),
        key("split.count", ValueType.UINT16, n_parts),
        key("split.tensors.count", ValueType.INT32, n_tensors),
    ]
    if number == 0:
        keys.insert(0, key("general.architecture", ValueType.STRING, "llama"))
    return gguf_file(keys, tensors, data)
