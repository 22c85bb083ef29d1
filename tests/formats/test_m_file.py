"""The header of `.m` files: written then read is equal, and every damage is named."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dllama.errors import ModelFileError, UnsupportedModelError
from dllama.formats.m_file import MAGIC, MFile, MKey, encode_header

INT32 = st.integers(-(1 << 31), (1 << 31) - 1)


def written(tmp_path: Path, data: bytes) -> Path:
    path = tmp_path / "model.m"
    path.write_bytes(data)
    return path


@given(pairs=st.dictionaries(st.sampled_from(list(MKey)), INT32))
def test_written_then_read_is_equal(tmp_path_factory: pytest.TempPathFactory, pairs: dict[MKey, int]) -> None:
    path = written(tmp_path_factory.mktemp("m"), encode_header(pairs.items()) + b"tensors")
    file = MFile(path)
    assert file.pairs == pairs
    assert list(file.pairs) == list(pairs)
    assert file.tensor_bytes.tobytes() == b"tensors"
    assert file.file_bytes == file.header_bytes + 7 == 15 + 8 * len(pairs)


def test_the_bytes_are_those_of_distributed_llama() -> None:
    data = encode_header([(MKey.VERSION, 0), (MKey.DIM, 4096)])
    assert data == struct.pack("<6i", 0xA00ABCD, 24, 0, 0, 2, 4096)


def test_letting_go_and_closing_leave_views_valid(tmp_path: Path) -> None:
    file = MFile(written(tmp_path, encode_header([]) + bytes(range(256)) * 64))
    view = file.tensor_bytes
    file.let_go()
    assert view.tobytes() == bytes(range(256)) * 64
    file.close()
    assert view[:4].tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is empty"),
        (b"abc", r"is no \.m model file \(3 bytes\)"),
        (b"GGUF" + bytes(60), "is a GGUF file"),
        (b"MMMM" + bytes(60), r"begins with 0x4D4D4D4D, not 0xA00ABCD"),
        (b"\xff" * 64, r"begins with 0xFFFFFFFF"),
        (struct.pack("<ii", MAGIC, 7), "cannot have 7 bytes"),
        (struct.pack("<ii", MAGIC, 12), "cannot have 12 bytes"),
        (struct.pack("<ii", MAGIC, -8), "cannot have -8 bytes"),
        (struct.pack("<ii", MAGIC, 0x7FFFFFF8), "cannot have 2147483640 bytes"),
        (struct.pack("<ii", MAGIC, 24), "is truncated: its header needs 24 bytes, the file has 8"),
        (struct.pack("<4i", MAGIC, 16, 99, 1), "the unknown key 99; known are 0 to 21"),
        (struct.pack("<4i", MAGIC, 16, -1, 1), "the unknown key -1"),
        (struct.pack("<6i", MAGIC, 24, 2, 64, 2, 64), r"the key 2 \(DIM\) occurs twice"),
    ],
)
def test_damage_is_named(tmp_path: Path, data: bytes, message: str) -> None:
    path = written(tmp_path, data)
    with pytest.raises(ModelFileError, match=message) as caught:
        MFile(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("magic", "n_experts"), [(0xABCD00, 8), (0xABCD01, 0), (0xABCD01, 8)])
def test_old_mixtures_are_recognised(tmp_path: Path, magic: int, n_experts: int) -> None:
    values = [64, 64, 2, 8, 8, n_experts, 2, 64, 64]
    with pytest.raises(
        UnsupportedModelError, match=r"Distributed Llama 0\.10 or older.*convert the model again"
    ):
        MFile(written(tmp_path, struct.pack("<10i", magic, *values)))


def test_an_old_header(tmp_path: Path) -> None:
    values = [64, 96, 2, 8, 4, 0, 0, 256, 128]
    file = MFile(written(tmp_path, struct.pack("<10i", 0xABCD00, *values) + b"weights"))
    assert file.is_old
    assert (file.header_bytes, file.tensor_bytes.tobytes()) == (40, b"weights")
    assert (file.pairs[MKey.DIM], file.pairs[MKey.MAX_SEQ_LEN]) == (64, 128)
    with pytest.raises(ModelFileError, match="is truncated: its header needs 40 bytes, the file has 12"):
        MFile(written(tmp_path, struct.pack("<3i", 0xABCD00, 64, 64)))


def test_what_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="there is no such file"):
        MFile(tmp_path / "nothing.m")
    with pytest.raises(ModelFileError, match="is a directory, not a file"):
        MFile(tmp_path)
