"""Directories to read and to spoil."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

GOLDENS = Path(__file__).resolve().parent.parent / "goldens"


class Directory:
    """A Hugging Face directory of one safetensors file, that can be changed before it is opened."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.weights = path / "model.safetensors"

    def change_config(self, **changes: Any) -> None:
        """Sets keys of config.json; `...` takes a key away."""
        path = self.path / "config.json"
        values = json.loads(path.read_text()) | changes
        path.write_text(json.dumps({key: value for key, value in values.items() if value is not ...}))

    def tensors(self) -> dict[str, tuple[str, list[int], bytes]]:
        """Name to dtype, shape, bytes."""
        data = self.weights.read_bytes()
        (n,) = struct.unpack("<Q", data[:8])
        return {
            name: (entry["dtype"], entry["shape"], data[8 + n :][slice(*entry["data_offsets"])])
            for name, entry in json.loads(data[8 : 8 + n]).items()
            if name != "__metadata__"
        }

    def store(self, tensors: dict[str, tuple[str, list[int], bytes]]) -> None:
        header, at = {}, 0
        for name, (dtype, shape, data) in tensors.items():
            header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + len(data)]}
            at += len(data)
        text = json.dumps(header).encode()
        body = b"".join(data for _, _, data in tensors.values())
        self.weights.write_bytes(struct.pack("<Q", len(text)) + text + body)

    def change_bf16(self, name: str, index: int, bits: int) -> None:
        """Overwrites one element of a BF16 tensor."""
        tensors = self.tensors()
        dtype, shape, data = tensors[name]
        assert dtype == "BF16"
        elements: NDArray[np.uint16] = np.frombuffer(data, dtype=np.uint16).copy()
        elements[index] = bits
        self.store(tensors | {name: (dtype, shape, elements.tobytes())})


@pytest.fixture
def copy_of(tmp_path: Path) -> Callable[[str], Directory]:
    """Copies a golden's model to where it may be spoilt."""

    def copy(name: str) -> Directory:
        target = tmp_path / name
        shutil.copytree(GOLDENS / name, target)
        return Directory(target)

    return copy
