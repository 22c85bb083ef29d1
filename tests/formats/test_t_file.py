"""`.t` files: written then read is equal, the bytes are Distributed Llama's, every damage is named."""

from __future__ import annotations

import math
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dllama.errors import TokenizerError
from dllama.formats.t_file import MAGIC, OLD_MAGIC, TFile, encode_t_file, read_t_file, write_t_file

SMALL = TFile(
    tokens=[b"a", b"bc", b"<s>"],
    scores=[0.0, -1.5, -2.0],
    bos_id=2,
    add_bos=False,
    eos_ids=(2, 1),
    chat_template="{{ é }}",
)


def read(tmp_path: Path, content: bytes) -> TFile:
    path = tmp_path / "x.t"
    path.write_bytes(content)
    return read_t_file(path)


def new_header(*pairs: tuple[int, int]) -> bytes:
    flat = [number for pair in pairs for number in pair]
    return struct.pack(f"<{2 + len(flat)}i", MAGIC, 8 + 8 * len(pairs), *flat)


def token(score: float, text: bytes) -> bytes:
    return struct.pack("<fi", score, len(text)) + text


@st.composite
def t_files(draw: st.DrawFn) -> TFile:
    tokens = draw(st.lists(st.binary(min_size=1, max_size=9), min_size=1, max_size=9))
    ids = st.integers(0, len(tokens) - 1)
    scores = st.floats(width=32, allow_nan=False, allow_infinity=False)
    return TFile(
        tokens=tokens,
        scores=draw(st.lists(scores, min_size=len(tokens), max_size=len(tokens))),
        bos_id=draw(st.none() | ids),
        add_bos=draw(st.booleans()),
        eos_ids=tuple(draw(st.lists(ids, unique=True))),
        chat_template=draw(st.none() | st.text(min_size=1)),
    )


@given(file=t_files())
def test_written_then_read_is_equal(tmp_path_factory: pytest.TempPathFactory, file: TFile) -> None:
    path = tmp_path_factory.mktemp("t") / "x.t"
    write_t_file(path, file)
    assert read_t_file(path) == file


def test_the_bytes_are_those_of_distributed_llama() -> None:
    header = new_header((0, 1), (1, 3), (2, 3), (9, 2), (10, 0), (3, 2), (7, 8))
    tokens = token(0.0, b"a") + token(-1.5, b"bc") + token(-2.0, b"<s>")
    assert encode_t_file(SMALL) == header + "{{ é }}".encode() + struct.pack("<2i", 2, 1) + tokens


def test_the_old_magic(tmp_path: Path) -> None:
    content = struct.pack("<6i", OLD_MAGIC, 2, 3, 0, 1, -1) + token(0.0, b"<s>") + token(0.5, b"b")
    file = read(tmp_path, content)
    assert file == TFile(
        tokens=[b"<s>", b"b"], scores=[0.0, 0.5], bos_id=0, add_bos=True, eos_ids=(1,), chat_template=None
    )


def test_old_keys_end_tokens_and_a_chat_stop_after_the_template(tmp_path: Path) -> None:
    header = new_header((0, 1), (1, 2), (2, 1), (3, 0), (4, 1), (5, -1), (6, 0), (7, 2), (8, 4))
    file = read(tmp_path, header + b"{}" + b"stop" + token(0, b"a") + token(0, b"b"))
    assert file.eos_ids == (1, 0)
    assert file.chat_template == "{}"
    assert file.add_bos


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "ends in the middle of the magic number"),
        (b"GGUF" * 9, "is a GGUF file"),
        (b"TTTT" * 9, "begins with 0x54545454"),
        (struct.pack("<2i", MAGIC, 7), "header has a size of 7"),
        (struct.pack("<2i", MAGIC, 8000), "ends in the middle of the header"),
        (new_header((1, 1)) + token(0, b"a"), "version is None"),
        (new_header((0, 2), (1, 1)) + token(0, b"a"), "version is 2"),
        (new_header((0, 1), (11, 1)), "unknown header key 11"),
        (new_header((0, 1), (1, 1 << 30)) + token(0, b"a"), "claims 1073741824 tokens"),
        (new_header((0, 1), (1, -1)) + token(0, b"a"), "claims -1 tokens"),
        (new_header((0, 1)) + token(0, b"a"), "claims 0 tokens"),
        (new_header((0, 1), (1, 1), (7, -5)) + token(0, b"a"), "the chat template has a length of -5"),
        (new_header((0, 1), (1, 1), (7, 1 << 30)) + token(0, b"a"), "middle of the chat template"),
        (new_header((0, 1), (1, 1), (7, 1)) + b"\xff" + token(0, b"a"), "chat template is not UTF-8"),
        (new_header((0, 1), (1, 1), (9, 1 << 30)) + token(0, b"a"), "claims 1073741824 end tokens"),
        (new_header((0, 1), (1, 1), (9, 1)) + struct.pack("<i", 7) + token(0, b"a"), "end token is 7 of 1"),
        (new_header((0, 1), (1, 1), (3, 1)) + token(0, b"a"), "first token is 1 of 1"),
        (new_header((0, 1), (1, 1)) + struct.pack("<fi", 0, 1 << 30), "token 0 of 1 claims 1073741824 bytes"),
        (new_header((0, 1), (1, 1)) + struct.pack("<fi", 0, -1), "token 0 of 1 claims -1 bytes"),
        (new_header((0, 1), (1, 1)) + token(math.nan, b"a"), "score that is no number"),
        (encode_t_file(SMALL) + b"x", "1 bytes follow its last token"),
    ],
)
def test_damage_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    with pytest.raises(TokenizerError, match=message) as caught:
        read(tmp_path, content)
    assert "x.t" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_every_truncation_is_an_error(tmp_path: Path) -> None:
    content = encode_t_file(SMALL)
    for end in range(len(content)):
        with pytest.raises(TokenizerError):
            read(tmp_path, content[:end])


@given(place=st.integers(0, len(encode_t_file(SMALL)) - 1), value=st.integers(0, 255))
def test_a_changed_byte_is_an_error_or_another_file(
    tmp_path_factory: pytest.TempPathFactory, place: int, value: int
) -> None:
    content = bytearray(encode_t_file(SMALL))
    content[place] = value
    try:
        read(tmp_path_factory.mktemp("t"), bytes(content))
    except TokenizerError:
        return


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match=r"x\.t: there is no such file"):
        read_t_file(tmp_path / "x.t")
