"""What is written as GGUF is read back, by dllama and by the gguf package."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from dllama.errors import NotEnoughDiskError
from dllama.formats.gguf import GgmlType, GgufFile, NewTensor, NewValue, Texts, write_gguf

REAL = Path(__file__).parents[3] / "shared" / "real" / "gguf-vocab"
METADATA: dict[str, NewValue] = {
    "general.architecture": "llama",
    "llama.block_count": 3,
    "llama.rope.freq_base": 10000.0,
    "tokenizer.ggml.add_bos_token": False,
    "tokenizer.ggml.tokens": ["<s>", "ü", ""],
    "tokenizer.ggml.merges": [b"a b", b"\xff c"],
    "tokenizer.ggml.scores": np.array([0.5, -1, 2], np.float32),
    "tokenizer.ggml.token_type": np.array([3, 1, 1], np.int32),
    "llama.window": np.array([True, False]),
    "small": np.uint8(7),
    "negative": -5,
    "large": 1 << 40,
    "very.negative": -(1 << 40),
    "double": np.float64(0.1),
}
TENSORS = [
    NewTensor("token_embd.weight", (3, 64), GgmlType.Q8_0),
    NewTensor("output_norm.weight", (5,), GgmlType.F32),
    NewTensor("experts", (2, 3, 256), GgmlType.Q4_K),
]
PIECES = [np.random.default_rng(5).integers(0, 256, one.n_bytes, np.uint8) for one in TENSORS]


def write(path: Path, metadata: dict[str, NewValue]) -> None:
    with write_gguf(path, metadata, TENSORS) as writer:
        for tensor, data in zip(TENSORS, PIECES, strict=True):
            for piece in np.array_split(data, 3):
                writer.write(tensor.name, piece)


def plain(value: Any) -> Any:
    """As both readers give it."""
    if isinstance(value, Texts):
        return value.as_bytes()
    if isinstance(value, list):
        return [text.encode() if isinstance(text, str) else text for text in value]
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value


def test_written_then_read_is_equal(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    write(path, METADATA)
    file = GgufFile(path)
    assert {key: plain(value) for key, value in file.metadata.items()} == {
        key: plain(value) for key, value in METADATA.items()
    }
    assert list(file.tensors) == [tensor.name for tensor in TENSORS]
    for tensor, data in zip(TENSORS, PIECES, strict=True):
        assert file.tensors[tensor.name].shape == tensor.shape
        assert file.tensors[tensor.name].type is tensor.type
        assert file.bytes_of(tensor.name).tobytes() == data.tobytes()
    again = tmp_path / "again.gguf"
    write(again, dict(file.metadata.items()) | {name: METADATA[name] for name in ("small", "double")})
    assert again.read_bytes() == path.read_bytes()


def test_the_gguf_package_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    write(path, METADATA)
    reader = gguf.GGUFReader(path)
    fields = {key: field for key, field in reader.fields.items() if not key.startswith("GGUF.")}
    assert list(fields) == list(METADATA)
    types = {"F32": np.float32, "F64": np.float64}
    kinds = {key: field.types[0].name for key, field in fields.items()}
    assert kinds == {
        "general.architecture": "STRING",
        "llama.block_count": "UINT32",
        "llama.rope.freq_base": "FLOAT32",
        "tokenizer.ggml.add_bos_token": "BOOL",
        "tokenizer.ggml.tokens": "ARRAY",
        "tokenizer.ggml.merges": "ARRAY",
        "tokenizer.ggml.scores": "ARRAY",
        "tokenizer.ggml.token_type": "ARRAY",
        "llama.window": "ARRAY",
        "small": "UINT8",
        "negative": "INT32",
        "large": "UINT64",
        "very.negative": "INT64",
        "double": "FLOAT64",
    }
    for key in METADATA.keys() - {"tokenizer.ggml.merges"}:  # which is no UTF-8, and their reader wants it
        assert plain(fields[key].contents()) == plain(METADATA[key])
    for tensor, data, found in zip(TENSORS, PIECES, reader.tensors, strict=True):
        assert found.name == tensor.name
        assert found.tensor_type.name == tensor.type.name
        assert tuple(found.shape.tolist()) == tensor.shape[::-1]
        assert found.data.view(types.get(tensor.type.name, np.uint8)).tobytes() == data.tobytes()
    end = reader.tensors[-1].data_offset + TENSORS[-1].n_bytes
    assert path.stat().st_size == end + -end % 32


NAMES = st.text(st.characters(codec="utf-8"), max_size=20)
VALUES = st.one_of(
    st.booleans(),
    st.integers(-(1 << 63), (1 << 64) - 1),
    st.floats(width=32, allow_nan=False),
    NAMES,
    st.lists(st.binary(max_size=9)),
    st.lists(st.integers(-128, 127)).map(lambda values: np.array(values, np.int8)),
    st.lists(st.booleans()).map(lambda values: np.array(values, np.bool_)),
)


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(NAMES.map("any.{}".format), VALUES, max_size=6))
def test_any_metadata_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, metadata: dict[str, NewValue]
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.gguf"
    with write_gguf(path, metadata, []):
        pass
    found = GgufFile(path).metadata
    assert list(found) == list(metadata)
    assert [plain(value) for value in found.values()] == [plain(value) for value in metadata.values()]


def write_one(path: Path, tensors: Sequence[NewTensor], name: str, data: NDArray[np.uint8]) -> None:
    with write_gguf(path, {}, tensors) as writer:
        writer.write(name, data)


def test_what_fails_leaves_the_older_file(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(b"older")
    with pytest.raises(AssertionError, match=r"output_norm\.weight was not written"):
        write_one(path, TENSORS, TENSORS[0].name, PIECES[0])
    too_large = [NewTensor("t", (1 << 30, 1 << 30), GgmlType.F32)]
    with pytest.raises(NotEnoughDiskError):
        write_one(path, too_large, "t", PIECES[0])
    assert path.read_bytes() == b"older"
    assert [entry.name for entry in tmp_path.iterdir()] == ["model.gguf"]


def test_mistakes_of_the_caller_are_asserted(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    with pytest.raises(AssertionError, match=r"output_norm\.weight is written, and token_embd"):
        write_one(path, TENSORS, "output_norm.weight", PIECES[1])
    with pytest.raises(AssertionError, match="1 bytes longer"):
        write_one(path, TENSORS[1:], "output_norm.weight", np.zeros(21, np.uint8))
    with pytest.raises(AssertionError, match="rows of 40 elements"):
        write_one(path, [NewTensor("t", (2, 40), GgmlType.Q4_0)], "t", PIECES[0])
    assert not path.exists()


@pytest.mark.skipif(not REAL.is_dir(), reason="the real vocabularies are not beside the project")
def test_what_llama_cpp_wrote_is_written_again_byte_by_byte(tmp_path: Path) -> None:
    """So llama.cpp reads ours: types, order and lengths are those that its own tools write."""
    copy = tmp_path / "copy.gguf"
    for path in REAL.glob("*.gguf"):
        with write_gguf(copy, GgufFile(path).metadata, []):
            pass
        assert copy.read_bytes() == path.read_bytes(), path.name
