"""GGUF files: what is sound is read, as the gguf package reads it; every damage is named in a line."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from dllama.dtypes import ElementType
from dllama.errors import ModelFileError
from dllama.formats.gguf import GgmlType, GgufFile, Texts, ValueType
from support.gguf_bytes import LAYOUTS, array, gguf_file, key, split_part, tensor, text

REAL = Path(__file__).parents[3] / "shared" / "real" / "gguf-vocab"
U32, STRING, BOOL = ValueType.UINT32, ValueType.STRING, ValueType.BOOL


def written(tmp_path: Path, data: bytes, name: str = "model.gguf") -> Path:
    path = tmp_path / name
    path.write_bytes(data)
    return path


def opened(tmp_path: Path, data: bytes) -> GgufFile:
    return GgufFile(written(tmp_path, data))


@pytest.mark.parametrize("version", [2, 3])
def test_metadata_of_every_type(tmp_path: Path, version: int) -> None:
    numbers = {kind: [0, 1, 7] if kind != BOOL else [0, 1, 1] for kind in LAYOUTS}
    keys = [key(f"one.{kind}", kind, values[-1]) for kind, values in numbers.items()]
    keys += [array(f"list.{kind}", kind, values) for kind, values in numbers.items()]
    keys += [key("name", STRING, "Größe"), array("names", STRING, ["a", b"\xff", "ß", ""])]
    keys += [array("none", STRING, []), array("no.numbers", U32, []), key("odd", STRING, b"a\xffb")]
    metadata = opened(tmp_path, gguf_file(keys, version=version)).metadata
    assert len(metadata) == len(keys)
    for kind, values in numbers.items():
        one, several = metadata[f"one.{kind}"], metadata[f"list.{kind}"]
        assert one == values[-1]
        assert type(one) is {"f": float, "d": float}.get(LAYOUTS[kind][1], bool if kind == BOOL else int)
        assert isinstance(several, np.ndarray)
        assert several.tolist() == values
        assert several.dtype == (np.bool_ if kind == BOOL else np.dtype(LAYOUTS[kind]))
        assert not several.flags.writeable
    assert metadata.need("name", str) == "Größe"
    assert metadata["odd"] == "a\ufffdb"
    assert metadata.need("names", Texts).as_bytes() == [b"a", b"\xff", "ß".encode(), b""]
    assert metadata.need("names", Texts).as_text() == ["a", "\ufffd", "ß", ""]
    assert list(metadata.need("none", Texts)) == []
    assert metadata.need("no.numbers", np.ndarray).size == 0


def test_need_and_find_check_the_kind(tmp_path: Path) -> None:
    keys = [
        key("n", U32, 3),
        key("x", ValueType.FLOAT32, 0.5),
        key("flag", BOOL, 1),
        array("a\n", STRING, []),
    ]
    path = written(tmp_path, gguf_file(keys))
    metadata = GgufFile(path).metadata
    assert metadata.need("n", int) == 3
    assert metadata.need("n", float) == 3.0
    assert metadata.find("x", float) == 0.5
    assert metadata.find("flag", bool) is True
    assert metadata.find("y", int) is None
    for call, message in (
        (lambda: metadata.need("y", int), "its metadata has no y; convert the model again"),
        (lambda: metadata.need("x", int), "x is 0.5, not a whole number; convert the model again"),
        (lambda: metadata.find("flag", int), "flag is True, not a whole number; convert the model again"),
        (lambda: metadata.find("flag", float), "flag is True, not a number; convert the model again"),
        (lambda: metadata.find("n", bool), "n is 3, not true or false; convert the model again"),
        (
            lambda: metadata.find("a\n", np.ndarray),
            "a\\n is a list of texts, not a list of numbers; convert the model again",
        ),
    ):
        with pytest.raises(ModelFileError) as caught:
            call()
        assert str(caught.value) == f"{path}: {message}"


def test_tensors_are_views_at_their_places(tmp_path: Path) -> None:
    data = np.arange(256, dtype=np.uint8).tobytes()
    table = [
        tensor("late", [4, 2], GgmlType.F32, 64),
        tensor("early", [32], GgmlType.Q8_0, 0),
        tensor("deep", [2, 1, 3, 1], GgmlType.I8, 128),
    ]
    keys = [key("general.alignment", U32, 64)]
    file = opened(tmp_path, gguf_file(keys, table, data, alignment=64))
    assert file.bytes_of("early").tobytes() == data[:34]
    assert file.bytes_of("late").tobytes() == data[64:96]
    assert file.bytes_of("deep").tobytes() == data[128:134]
    assert file.tensors["late"].shape == (2, 4)
    assert file.tensors["late"].row_bytes == 16
    assert file.tensors["deep"].shape == (1, 3, 1, 2)
    assert file.tensors["deep"].element_type is None
    assert file.tensors["early"].element_type is ElementType.Q80
    view = file.bytes_of("late")
    file.check()
    file.let_go()
    file.close()
    assert view.tobytes() == data[64:96]
    assert not view.flags.writeable


def test_types_are_those_of_the_gguf_package() -> None:
    assert {one.name: one.value for one in GgmlType} == {
        one.name: one.value for one in gguf.GGMLQuantizationType if one.name in GgmlType.__members__
    }
    for one in GgmlType:
        sizes = gguf.GGML_QUANT_SIZES.get(gguf.GGMLQuantizationType(one))
        assert (one.block, one.block_bytes) == sizes


def test_every_element_type_is_one_of_ggml() -> None:
    for dtype in ElementType:
        one = GgmlType.of(dtype)
        assert one.element_type is dtype
        assert (one.block, one.block_bytes) == (dtype.block, dtype.block_bytes)


def test_reads_what_the_gguf_package_writes(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_uint32("llama.block_count", 3)
    writer.add_array("tokenizer.ggml.tokens", ["<s>", "ü", "c"])
    writer.add_array("tokenizer.ggml.scores", [0.5, -1.0, 2.0])
    rng = np.random.default_rng(1)
    weights = {"a": rng.random((3, 64), np.float32), "b": rng.random((2, 3, 5), np.float32)}
    for name, values in weights.items():
        writer.add_tensor(name, values)
    quantized = gguf.quantize(weights["a"], gguf.GGMLQuantizationType.Q4_1)
    writer.add_tensor("q", quantized, raw_dtype=gguf.GGMLQuantizationType.Q4_1)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    file = GgufFile(path)
    assert file.metadata.need("llama.block_count", int) == 3
    assert file.metadata.need("tokenizer.ggml.tokens", Texts).as_text() == ["<s>", "ü", "c"]
    assert file.metadata.need("tokenizer.ggml.scores", np.ndarray).tolist() == [0.5, -1.0, 2.0]
    for name, values in weights.items():
        assert file.tensors[name].shape == values.shape
        assert file.bytes_of(name).tobytes() == values.tobytes()
    assert file.tensors["q"].element_type is ElementType.Q41
    assert file.tensors["q"].shape == (3, 64)
    assert file.bytes_of("q").tobytes() == quantized.tobytes()


@pytest.mark.slow
@pytest.mark.skipif(not REAL.is_dir(), reason="the real vocabularies are not beside the project")
@pytest.mark.parametrize(
    "path", [REAL / f"ggml-vocab-{name}.gguf" for name in ("phi-3", "llama-spm")], ids=lambda path: path.stem
)
def test_real_vocabularies_are_read_as_the_gguf_package_reads_them(path: Path) -> None:
    ours, theirs = GgufFile(path), gguf.GGUFReader(path)
    fields = {key: field for key, field in theirs.fields.items() if not key.startswith("GGUF.")}
    assert set(ours.metadata) == set(fields)
    for key_, field in fields.items():
        wanted, found = field.contents(), ours.metadata[key_]
        if isinstance(found, Texts):
            assert found.as_text() == wanted
        else:
            assert (found.tolist() if isinstance(found, np.ndarray) else found) == wanted


def one(dims: Sequence[int], ggml_type: int = GgmlType.F32, offset: int = 0, data: int = 256) -> bytes:
    """A file of one tensor `t` and `data` bytes."""
    return gguf_file([], [tensor("t", dims, ggml_type, offset)], bytes(data))


def raw_key(name: str, kind: int, rest: bytes) -> bytes:
    return text(name) + struct.pack("<I", kind) + rest


DAMAGED = [
    (b"", "is empty; download or convert it again"),
    (b"GGU", "is no GGUF file (it begins with b'GGU'); download it again"),
    (b"lmgg" + bytes(60), "is a model of before GGUF (GGML, of 2023), which is not read; download it as GGUF"),
    (bytes(64), "is no GGUF file (it begins with b'\\x00\\x00\\x00\\x00'); download it again"),
    (b"PK\x03\x04" + bytes(64), "is a zip archive or PyTorch's .bin or .pth, which is not read; take the model's"),
    (b"GGUF\x03", "is truncated: it has 5 bytes; download it again"),
    (b"GGUF\x03\x00\x00\x00", "is truncated or damaged: at byte 8 its header needs 16 bytes, and the file ends"),
    (gguf_file(version=1), "is a GGUF file of version 1, of 2023, which is not read; download a newer one"),
    (gguf_file(version=0), "is a GGUF file of version 0, of 2023"),
    (gguf_file(version=4), "is a GGUF file of version 4, and known are 2 and 3; it is damaged or newer"),
    (gguf_file(version=3 << 24), "is a GGUF file for big-endian computers, which is not read"),
    (gguf_file(n_tensors=1 << 62), "it would have 4611686018427387904 tensors and 0 keys; download it again"),
    (gguf_file(n_keys=1 << 62), "it would have 0 tensors and 4611686018427387904 keys; download it again"),
    (gguf_file(n_keys=2), "is truncated or damaged: at byte 24 its header needs 8 bytes, and the file ends after 24"),
    (gguf_file([key("k", U32, 1)] * 2), "its header is damaged: the key k occurs twice; download it again"),
    (gguf_file([key(b"k\xff", U32, 1)]), "its header is damaged: a key is not UTF-8 (b'k\\xff'); download it again"),
    (gguf_file([key("k" * 65536, U32, 1)]), "its header is damaged: a key has 65536 bytes"),
    (gguf_file([text("k", 1 << 63)]), "at byte 32 its header needs 9223372036854775808 bytes, and the file ends"),
    (gguf_file([raw_key("k", 8, text("v", 2**64 - 1))]), "at byte 45 its header needs 18446744073709551615 bytes"),
    (gguf_file([raw_key("k", 13, bytes(8))]), "k has a value of type 13; known are 0 to 12; download it again"),
    (gguf_file([key("k", BOOL, 2)]), "k is 2, and only true and false are possible; download it again"),
    (gguf_file([array("k", BOOL, [1, 3])]), "k has more than true and false in it; download it again"),
    (gguf_file([array("k", U32, [1], 10**9)]), "at byte 49 its header needs 4000000000 bytes, and the file ends"),
    (gguf_file([array("k", STRING, ["a"], 10**9)]), "k would be a list of 1000000000 texts; download it again"),
    (gguf_file([array("k", STRING, ["a"], 10**6)]), "k is a list of 1000000 texts that begins at byte 49"),
    (gguf_file([raw_key("k", 9, struct.pack("<IQ", 8, 1) + text("", 1 << 63))]), "k is a list of 1 texts that begins"),
    (gguf_file([array("k", 13, [], 2)]), "k has a value of type 13; known are 0 to 12; download it again"),
    (gguf_file([array("k", 9, [], 1)]), "k is a list of lists, which no known model has; convert the model anew"),
    (gguf_file([key("a\nb", U32, 1)] * 2), "the key a\\nb occurs twice; download it again"),
    (gguf_file([key("general.alignment", U32, 0)]), "general.alignment is 0, no power of two; download it again"),
    (gguf_file([key("general.alignment", U32, 48)]), "general.alignment is 48, no power of two"),
    (gguf_file([key("general.alignment", STRING, "8")]), "general.alignment is '8', no power of two"),
    (one([]), "t has 0 dimensions, not 1 to 4; download it again"),
    (one([1] * 5), "t has 5 dimensions, not 1 to 4; download it again"),
    (one([4, 0]), "t, F32 of shape [0, 4], has no elements; download it again"),
    (one([40, 2], GgmlType.Q4_0), "t, Q4_0 of shape [2, 40], has rows that are no whole blocks of 32"),
    (one([4], 99), "t has the unknown type 99, and known are F32, F16, Q4_0"),
    (one([4], 31), "t is Q4_0_4_4 (type 31), which llama.cpp dropped and dllama does not read; download the model in"),
    (one([4], offset=8), "t begins at 8, no multiple of 32 (general.alignment); download it again"),
    (one([65]), "is truncated: its tensors end at byte 324, the file has 320 bytes; download it again"),
    (one([64], offset=1 << 62), "is truncated: its tensors end at byte 4611686018427388224, the file has 320 bytes"),
    (one([1 << 62] * 4), "is truncated: its tensors end at byte 1809251394333065553493296640760748560207"),
    (
        gguf_file([], [tensor("t", [4]), tensor("t", [4], offset=32)], bytes(64)),
        "two tensors have the name t; download it again",
    ),
    (
        gguf_file([], [tensor("b", [16], offset=32), tensor("a", [9])], bytes(96)),
        "b begins 4 bytes before the end of a; download it again",
    ),
    (gguf_file([], [tensor(b"\xc0", [4])], bytes(64)), "a tensor's name is not UTF-8 (b'\\xc0'); download it again"),
    (gguf_file([], [tensor("t", [4])]), "is truncated: its tensors end at byte 80, the file has 57 bytes"),
]  # fmt: skip


@pytest.mark.parametrize(("data", "message"), DAMAGED, ids=[message[:50] for _, message in DAMAGED])
def test_damage_is_named_in_one_line(tmp_path: Path, data: bytes, message: str) -> None:
    path = written(tmp_path, data)
    with pytest.raises(ModelFileError) as caught:
        GgufFile(path)
    line = str(caught.value)
    assert message in line
    assert line.startswith(f"{path}: ")
    assert "\n" not in line
    assert len(line) < len(str(path)) + 500


def test_every_truncation_is_named(tmp_path: Path) -> None:
    keys = [key("k", STRING, "value"), array("a", STRING, ["x", "yz"]), array("n", U32, [1, 2])]
    whole = gguf_file(keys, [tensor("t", [4]), tensor("u", [2, 2], offset=32)], bytes(48))
    GgufFile(written(tmp_path, whole))
    for n_bytes in range(len(whole)):
        with pytest.raises(ModelFileError, match=r"truncated|is empty|no GGUF file"):
            opened(tmp_path, whole[:n_bytes])


NAMES = [f"m-{number:05}-of-00003.gguf" for number in (1, 2, 3)]


def write_split(tmp_path: Path, **changed: bytes) -> Path:
    """The first part of three; `changed`: the bytes of part `p1` to `p3`."""
    for number, name in enumerate(NAMES):
        table = [tensor(f"t{number}", [4])] if number else []
        part = split_part(number, 3, 2, table, bytes([number]) * 16 if number else b"")
        (tmp_path / name).write_bytes(changed.get(f"p{number + 1}", part))
    return tmp_path / NAMES[0]


def test_a_split_model_is_found_from_its_first_part(tmp_path: Path) -> None:
    first = write_split(tmp_path)
    file = GgufFile(first)
    assert [path.name for path in file.paths] == NAMES
    assert file.metadata.need("general.architecture", str) == "llama"
    assert list(file.tensors) == ["t1", "t2"]
    assert file.bytes_of("t2").tolist() == [2] * 16
    assert file.path_of("t2").name == NAMES[2]
    with (tmp_path / NAMES[2]).open("ab") as part:
        part.write(b"more")
    file.check_of("t1")()
    for check in (file.check, file.check_of("t2")):
        with pytest.raises(ModelFileError, match=r"m-00003-of-00003\.gguf: was changed"):
            check()


@pytest.mark.parametrize("tensors_first", [False, True])
def test_a_model_that_the_gguf_package_split(tmp_path: Path, tensors_first: bool) -> None:
    writer = gguf.GGUFWriter(
        tmp_path / "m.gguf", "llama", split_max_tensors=2, small_first_shard=not tensors_first
    )
    writer.add_uint32("llama.block_count", 3)
    weights = {f"t{index}": np.full((2, 3 + index), index, np.float32) for index in range(5)}
    for name, values in weights.items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    parts = sorted(tmp_path.iterdir())
    file = GgufFile(parts[0])
    assert file.paths == parts
    assert len(parts) == (3 if tensors_first else 4)
    assert file.metadata.need("llama.block_count", int) == 3
    for name, values in weights.items():
        assert file.tensors[name].shape == values.shape
        assert file.bytes_of(name).tobytes() == values.tobytes()


def test_a_name_alone_makes_no_part(tmp_path: Path) -> None:
    path = written(tmp_path, one([4]), "x-00002-of-00004.gguf")
    assert GgufFile(path).paths == [path]


def table_of(*names: str) -> list[bytes]:
    return [tensor(name, [4], offset=32 * index) for index, name in enumerate(names)]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"p2": split_part(2, 3, 2, table_of("t1"), bytes(16))}, "its split.no is 2, not 1"),
        ({"p2": split_part(1, 4, 2, table_of("t1"), bytes(16))}, "its split.count is 4, not 3"),
        ({"p2": split_part(1, 3, 5, table_of("t1"), bytes(16))}, "its split.tensors.count is 5, and that of m-00001"),
        ({"p2": split_part(1, 3, 2, table_of("t2"), bytes(16))}, "t2 is in a part before it too"),
        ({"p2": one([4])}, "its split.no is None, not 1"),
        ({"p2": split_part(1, 3, 2, table_of("t1", "x"), bytes(48))}, "its parts have 3 tensors, and it says 2"),
        ({"p2": b"GGUF"}, "m-00002-of-00003.gguf: is truncated: it has 4 bytes"),
    ],
)  # fmt: skip
def test_parts_of_other_models_are_named(tmp_path: Path, changed: dict[str, Any], message: str) -> None:
    first = write_split(tmp_path, **changed)
    with pytest.raises(ModelFileError) as caught:
        GgufFile(first)
    assert message in str(caught.value)


def test_missing_and_misnamed_parts_are_named(tmp_path: Path) -> None:
    first = write_split(tmp_path)
    with pytest.raises(
        ModelFileError, match=r"is part 2 of 3 of a split model; give the first, m-00001-of-00003\.gguf"
    ):
        GgufFile(tmp_path / NAMES[1])
    renamed = tmp_path / "model.gguf"
    first.rename(renamed)
    with pytest.raises(ModelFileError, match=r"has another name; .* as NAME-00001-of-00003\.gguf"):
        GgufFile(renamed)
    renamed.rename(first)
    (tmp_path / NAMES[1]).unlink()
    with pytest.raises(
        ModelFileError, match=r"is part 1 of 3, and m-00002-of-00003\.gguf is missing beside it"
    ):
        GgufFile(first)
    (tmp_path / NAMES[2]).unlink()
    with pytest.raises(ModelFileError, match=r"m-00002-of-00003\.gguf, and 1 more are missing beside it"):
        GgufFile(first)
