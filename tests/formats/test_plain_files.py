"""Files that others wrote: what is no plain file, too large, too deep or something else is one clear line."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from dllama.errors import ModelFileError, TokenizerError
from dllama.formats.mapped import MappedFile
from dllama.formats.plain_files import read_json_object, read_plain_file, read_text_file
from dllama.formats.strangers import stranger


def test_a_pipe_keeps_nobody_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "config.json")
    for read in (read_json_object, read_text_file, read_plain_file):
        with pytest.raises(TokenizerError, match=r"config\.json: is a pipe, not a file"):
            read(tmp_path / "config.json", TokenizerError)
    with pytest.raises(ModelFileError, match=r"config\.json: is a pipe, not a file"):
        MappedFile(tmp_path / "config.json")


def test_other_things_by_the_name_of_a_file(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="is a directory, not a file"):
        read_plain_file(tmp_path, ModelFileError)
    with pytest.raises(ModelFileError, match="is a device, not a file"):
        read_plain_file(Path("/dev/zero"), ModelFileError)
    with socket.socket(socket.AF_UNIX) as unix:
        unix.bind(str(tmp_path / "s"))
        with pytest.raises(ModelFileError, match="s: "):
            read_plain_file(tmp_path / "s", ModelFileError)
    (tmp_path / "dangling").symlink_to("gone")
    with pytest.raises(ModelFileError, match="dangling: there is no such file"):
        read_plain_file(tmp_path / "dangling", ModelFileError)


def test_a_link_to_a_file_is_a_file(tmp_path: Path) -> None:
    """As all of a download of Hugging Face are."""
    (tmp_path / "blob").write_text('{"a": 1}')
    (tmp_path / "config.json").symlink_to("blob")
    assert read_json_object(tmp_path / "config.json", ModelFileError) == {"a": 1}


def test_no_more_is_read_than_a_file_may_have(tmp_path: Path) -> None:
    with (tmp_path / "config.json").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(ModelFileError, match="larger than 64 MiB"):
        read_json_object(tmp_path / "config.json", ModelFileError)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not JSON"),
        (b'{"a": ', "is not JSON"),
        (b"[1]", "is not a JSON object"),
        (b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "is not JSON|deep"),
        (b'{"a": ' + b"[" * 64 + b"]" * 64 + b"}", "nested more than 64 deep"),
        (b'{"a": ' + b'{"a": ' * 64 + b"1" + b"}" * 65, "nested more than 64 deep"),
        (b'{"a": ["\\ud800"]}', "half a surrogate pair"),
        (b'{"\\udfff": 1}', "half a surrogate pair"),
        (b'{"a": ' + b"9" * 5000 + b"}", "is not JSON"),
        (b'{"a": "\xff"}', "is not JSON"),
    ],
)
def test_json_that_is_none_or_too_much(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(content)
    with pytest.raises(ModelFileError, match=message) as caught:
        read_json_object(path, ModelFileError)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


def test_json_as_people_have_it(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(
        b'\xef\xbb\xbf{"a": [1.5, null, Infinity, "\\ud83d\\ude00"], "deep": ' + b"[" * 62 + b"]" * 62 + b"}"
    )
    assert read_json_object(path, ModelFileError)["a"] == [1.5, None, float("inf"), "😀"]


@pytest.mark.parametrize(
    ("head", "what"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 12345\n", "git-lfs pointer"),
        (b"GGUF\x03\0\0\0", "GGUF"),
        (b"PK\x03\x04\x14\0", "PyTorch"),
        (b"\x80\x02\x8a\nl\xfc", "PyTorch"),
        (b"\n <!DOCTYPE html><html>", "web page"),
        (b"Entry not found", "no such file"),
        (b"Access to model meta-llama/Llama-3 is restricted", "log in"),
        (b"\x1f\x8b\x08", "gzip"),
    ],
)
def test_the_wrong_file_is_called_by_its_name(tmp_path: Path, head: bytes, what: str) -> None:
    (tmp_path / "x").write_bytes(head)
    for fault in (ModelFileError, TokenizerError):
        with pytest.raises(fault, match=f"x: is .*{what}"):
            read_plain_file(tmp_path / "x", fault)
    with pytest.raises(ModelFileError, match=what):
        MappedFile(tmp_path / "x")


def test_our_own_files_are_no_strangers() -> None:
    for head in (
        b"\xcd\xab\x00\x0a",
        b"\x24\x71\x56\x00",
        b'{"a": 1}',
        b"\x0a\x0e\x0a\x05<unk>",
        b"IQ== 0\n",
        b"",
    ):
        assert stranger(head) is None
