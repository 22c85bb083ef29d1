"""A file appears whole or not at all, and what was there before survives a failure."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from dllama.errors import NotEnoughDiskError, UsageError
from dllama.formats.atomic import require_free_space, write_atomically


def test_the_file_appears_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "model.m"
    with write_atomically(path) as file:
        file.write(b"abc")
        assert not path.exists()
        (partial,) = tmp_path.iterdir()
        assert partial.name.startswith(".model.m.")
    assert path.read_bytes() == b"abc"
    assert list(tmp_path.iterdir()) == [path]


def test_it_has_the_rights_of_any_new_file(tmp_path: Path) -> None:
    with write_atomically(tmp_path / "a"):
        pass
    (tmp_path / "b").touch()
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == stat.S_IMODE((tmp_path / "b").stat().st_mode)


def write_and_fail(path: Path, failure: BaseException) -> None:
    with write_atomically(path) as file:
        file.write(b"half")
        raise failure


@pytest.mark.parametrize("failure", [ValueError("x"), KeyboardInterrupt(), OSError(errno.EIO, "x")])
def test_a_failure_leaves_what_was_there(tmp_path: Path, failure: BaseException) -> None:
    path = tmp_path / "model.m"
    path.write_bytes(b"before")
    with pytest.raises(type(failure)):
        write_and_fail(path, failure)
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_is_named(tmp_path: Path) -> None:
    path = tmp_path / "model.m"
    with pytest.raises(NotEnoughDiskError, match=r"model\.m.*full"), write_atomically(path):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert not list(tmp_path.iterdir())


def test_a_directory_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No such file or directory"), write_atomically(tmp_path / "x" / "a"):
        pytest.fail("nothing to write to")


def test_a_directory_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    with pytest.raises(UsageError, match="cannot write"), write_atomically(tmp_path / "a"):
        pass
    assert [entry.name for entry in tmp_path.iterdir()] == ["a"]


def test_free_space(tmp_path: Path) -> None:
    require_free_space(tmp_path / "not" / "there", 1)
    with pytest.raises(NotEnoughDiskError, match=r"needs 1000000000\.0 GB .* has \d+"):
        require_free_space(tmp_path, 10**18)
