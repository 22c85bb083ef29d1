"""A file appears whole or not at all, and what was there before survives a failure."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from dllama.errors import NotEnoughDiskError, UsageError
from dllama.formats.atomic import check_writable, require_free_space, write_atomically


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
        require_free_space(tmp_path / "a", 10**18)
    os.mkfifo(tmp_path / "pipe")
    require_free_space(tmp_path / "pipe", 10**18)


# Names that stand for something else


def test_a_pipe_is_written_to_and_stays(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    check_writable(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    with write_atomically(pipe) as file:
        file.write(b"abc")
    assert os.read(reader, 10) == b"abc"
    os.close(reader)
    assert stat.S_ISFIFO(pipe.lstat().st_mode)
    assert list(tmp_path.iterdir()) == [pipe]


@pytest.fixture
def device(tmp_path: Path) -> Callable[[int], Path]:
    """A character device of the test's own: 3 swallows everything, 7 is always full (Linux)."""

    def make(minor: int) -> Path:
        path = tmp_path / f"device-{minor}"
        try:
            os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(1, minor))
            path.open("wb").close()
        except OSError as error:
            pytest.skip(f"no device can be made here: {error}")
        return path

    return make


def test_a_device_is_written_to_and_stays(device: Callable[[int], Path]) -> None:
    path = device(3)
    with write_atomically(path) as file:
        file.write(b"abc")
    assert stat.S_ISCHR(path.lstat().st_mode)
    assert list(path.parent.iterdir()) == [path]


def test_a_full_device_is_a_full_disk(device: Callable[[int], Path]) -> None:
    path = device(7)
    with (
        pytest.raises(NotEnoughDiskError, match="device-7: the disk is full"),
        write_atomically(path) as file,
    ):
        file.write(b"abc")
    assert stat.S_ISCHR(path.lstat().st_mode)


@pytest.mark.parametrize("is_there", [True, False])
def test_a_link_is_followed_and_stays(tmp_path: Path, is_there: bool) -> None:
    (tmp_path / "far").mkdir()
    target, near, far = tmp_path / "far" / "report.json", tmp_path / "near", tmp_path / "far" / "link"
    near.symlink_to("far/link")
    far.symlink_to("report.json")
    if is_there:
        target.write_bytes(b"before")
    check_writable(near)
    with write_atomically(near) as file:
        file.write(b"after")
        assert not is_there or target.read_bytes() == b"before"
    assert (near.is_symlink(), far.is_symlink(), target.is_symlink()) == (True, True, False)
    assert target.read_bytes() == b"after"
    assert {path.name for path in tmp_path.iterdir()} == {"far", "near"}


def test_links_in_a_circle_are_said(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(UsageError, match="cannot write"), write_atomically(tmp_path / "a"):
        pytest.fail("nothing to write to")
    with pytest.raises(UsageError, match="symbolic links"):
        check_writable(tmp_path / "a")
    assert {path.name for path in tmp_path.iterdir()} == {"a", "b"}


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="no names of open files here")
def test_an_open_file_is_not_taken_away_from_who_holds_it(tmp_path: Path) -> None:
    """`--report /dev/stdout > FILE`: the shell's FILE, with what is printed."""
    with (tmp_path / "out").open("wb") as out:
        out.write(b"printed ")
        out.flush()
        with write_atomically(Path(f"/proc/self/fd/{out.fileno()}")) as file:
            file.write(b"report")
        assert (tmp_path / "out").stat().st_ino == os.fstat(out.fileno()).st_ino
    assert (tmp_path / "out").read_bytes() == b"printed report"


def test_a_replaced_file_keeps_its_rights(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    path.touch()
    path.chmod(0o640)
    if os.geteuid() == 0:
        os.chown(path, 12345, 54321)
    before = path.stat()
    with write_atomically(path) as file:
        file.write(b"abc")
    after = path.stat()
    assert (after.st_mode, after.st_uid, after.st_gid) == (before.st_mode, before.st_uid, before.st_gid)
    assert after.st_ino != before.st_ino


def test_what_killed_writers_left_is_removed(tmp_path: Path) -> None:
    """By the next to write that name, and not what a living one is at, or what has another name."""
    path = tmp_path / "model.m"
    kept = [tmp_path / name for name in (".model.m.partial", ".model.m.x.partial", ".other.0123abcd.partial")]
    for leftover in (tmp_path / ".model.m.0123abcd.partial", *kept):
        leftover.write_bytes(b"half")
    with write_atomically(path) as first:
        first.write(b"first")
        with write_atomically(path) as second:
            second.write(b"second")
        assert path.read_bytes() == b"second"
    assert path.read_bytes() == b"first"
    assert sorted(tmp_path.iterdir()) == sorted([path, *kept])


def test_a_directory_or_a_place_that_is_not_there_is_said_before_the_work(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "x" / "a"):
        with pytest.raises(UsageError, match="cannot write"):
            check_writable(path)
    check_writable(tmp_path / "a")
    assert not list(tmp_path.iterdir())
