"""Headers of safetensors files and indexes: what is sound is read, every damage is named."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest

from dllama.dtypes import ElementType
from dllama.errors import ModelFileError
from dllama.formats.safetensors import SafetensorsFile, open_safetensors_directory


def encoded(header: Any, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def entry(begin: int, end: int, shape: list[int], dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def written(tmp_path: Path, data: bytes, name: str = "model.safetensors") -> Path:
    path = tmp_path / name
    path.write_bytes(data)
    return path


def test_reads_tensors_in_any_order(tmp_path: Path) -> None:
    header = {
        "__metadata__": {"format": "pt"},
        "late": entry(8, 12, [2], "BF16"),
        "early": entry(0, 8, [1, 2]),
        "scalar": entry(12, 16, []),
        "empty": entry(16, 16, [0, 5]),
        "steps": entry(16, 24, [1], "I64"),
        "future": entry(24, 27, [6], "F4"),
    }
    file = SafetensorsFile(written(tmp_path, encoded(header, bytes(range(27)))))
    assert set(file.tensors) == set(header) - {"__metadata__"}
    assert file.bytes_of("early").tolist() == list(range(8))
    assert file.bytes_of("late").tolist() == [8, 9, 10, 11]
    assert file.tensors["late"].element_type is ElementType.BF16
    assert file.tensors["late"].shape == (2,)
    assert file.tensors["steps"].element_type is None
    assert file.tensors["future"].element_type is None


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is empty"),
        (b"1234567", r"is no safetensors file \(7 bytes\)"),
        (b"\xff" * 64, "is no safetensors file"),
        (struct.pack("<Q", 100) + b"{}", "is truncated: the header alone needs 108 bytes, the file has 10"),
        (encoded(b'{"a": '), "header is damaged"),
        (encoded(b"\xff\xfe{}"), "header is damaged"),
        (encoded(b"[" * 100_000), "header is damaged"),
        (encoded([]), "no JSON object"),
        (encoded(b'{"a": 1, "a": 2}'), "occurs twice"),
        (encoded({"a": 1}), "entry for a is damaged"),
        (encoded({"a": entry(0, 4, [-1])}, bytes(4)), "entry for a is damaged"),
        (encoded({"a": entry(0, 4, [True])}, bytes(4)), "entry for a is damaged"),
        (encoded({"a": entry(0, 4, [1.0])}, bytes(4)), "entry for a is damaged"),  # type: ignore[list-item]
        (
            encoded({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0]}}, bytes(4)),
            "entry for a is damaged",
        ),
        (
            encoded({"a": entry(0, 8, [3])}, bytes(8)),
            r"gives a 8 bytes, which do not hold F32 of shape \[3\]",
        ),
        (encoded({"a": entry(4, 0, [1])}, bytes(4)), "gives a -4 bytes"),
        (encoded({"a": entry(0, 8, [1 << 62, 1 << 62])}, bytes(8)), "do not hold"),
        (encoded({"a": entry(0, 8, [2]), "b": entry(4, 12, [2])}, bytes(12)), "b overlaps another tensor"),
        (encoded({"a": entry(0, 8, [2]), "b": entry(12, 16, [1])}, bytes(16)), "b follows a hole"),
        (
            encoded({"a": entry(0, 8, [2])}, bytes(5)),
            r"is truncated: its tensors end at byte \d+, the file has",
        ),
        (encoded({"a": entry(0, 8, [2])}, bytes(9)), "is too long"),
        (encoded({"a": entry(0, 1 << 62, [1 << 60])}, bytes(9)), "is truncated"),
    ],
)
def test_damage_is_named(tmp_path: Path, data: bytes, message: str) -> None:
    path = written(tmp_path, data)
    with pytest.raises(ModelFileError, match=message) as caught:
        SafetensorsFile(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def index(tmp_path: Path, weight_map: Any) -> None:
    written(tmp_path, json.dumps({"weight_map": weight_map}).encode(), "model.safetensors.index.json")


def test_shards(tmp_path: Path) -> None:
    written(tmp_path, encoded({"a": entry(0, 4, [1])}, b"aaaa"), "one.safetensors")
    written(tmp_path, encoded({"b": entry(0, 4, [1]), "c": entry(4, 8, [1])}, b"bbbbcccc"), "two.safetensors")
    index(tmp_path, {"a": "one.safetensors", "b": "two.safetensors", "c": "two.safetensors"})
    files = open_safetensors_directory(tmp_path)
    assert {name: file.bytes_of(name).tobytes() for name, file in files.items()} == {
        "a": b"aaaa",
        "b": b"bbbb",
        "c": b"cccc",
    }
    assert files["b"] is files["c"]


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    index(tmp_path, {"a": "model-00007-of-00030.safetensors"})
    with pytest.raises(ModelFileError, match=r"model-00007-of-00030\.safetensors: is missing"):
        open_safetensors_directory(tmp_path)


def test_what_the_named_files_hold_counts(tmp_path: Path) -> None:
    """An index that lists a tensor of no file, or none of a file's, does no harm; transformers loads such models."""
    written(tmp_path, encoded({"a": entry(0, 4, [1]), "c": entry(4, 8, [1])}, b"aaaacccc"), "one.safetensors")
    index(tmp_path, {"a": "one.safetensors", "b": "one.safetensors"})
    assert set(open_safetensors_directory(tmp_path)) == {"a", "c"}


def test_of_two_tensors_of_a_name_the_index_says_which(tmp_path: Path) -> None:
    for name in ("one", "two", "three"):
        written(tmp_path, encoded({"a": entry(0, 4, [1])}, name[:2].encode() * 2), f"{name}.safetensors")
    written(tmp_path, encoded({"b": entry(0, 4, [1])}, b"bbbb"), "four.safetensors")
    for wanted in ("one", "two"):
        index(tmp_path, {"b": "four.safetensors", "x": "two.safetensors", "a": f"{wanted}.safetensors"})
        assert open_safetensors_directory(tmp_path)["a"].bytes_of("a").tobytes() == wanted[:2].encode() * 2


def test_names_of_files_as_people_write_them(tmp_path: Path) -> None:
    (tmp_path / "shards").mkdir()
    written(tmp_path, encoded({"a": entry(0, 4, [1]), "b": entry(4, 8, [1])}, b"aaaabbbb"), "one.safetensors")
    written(tmp_path / "shards", encoded({"c": entry(0, 4, [1])}, b"cccc"), "two.safetensors")
    index(tmp_path, {"a": "./one.safetensors", "b": "one.safetensors", "c": "./shards//two.safetensors"})
    files = open_safetensors_directory(tmp_path)
    assert set(files) == {"a", "b", "c"}
    assert files["a"] is files["b"]


@pytest.mark.parametrize(
    "name",
    [
        "../outside.safetensors",
        "./../outside.safetensors",
        "/etc/passwd",
        "/a.safetensors",
        "",
        "..",
        3,
        None,
    ],
)
def test_an_index_may_name_only_safetensors_below_it(tmp_path: Path, name: Any) -> None:
    (tmp_path / "inner").mkdir()
    written(tmp_path, encoded({"a": entry(0, 4, [1])}, b"aaaa"), "outside.safetensors")
    index(tmp_path / "inner", {"a": name})
    with pytest.raises(ModelFileError, match="is no safetensors file below it"):
        open_safetensors_directory(tmp_path / "inner")


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"weight_map": []}', '{"weight_map": {}}', "\x00"])
def test_a_damaged_index(tmp_path: Path, text: str) -> None:
    written(tmp_path, text.encode(), "model.safetensors.index.json")
    with pytest.raises(ModelFileError, match=r"index\.json: "):
        open_safetensors_directory(tmp_path)


def test_a_directory_without_weights(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=r"has neither model\.safetensors nor"):
        open_safetensors_directory(tmp_path)
