"""Mapped files that are changed under the map: one line that names the file, exit code 1."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from dllama.errors import ModelFileError
from dllama.formats.mapped import MappedFile

N_BYTES = 1 << 20

LOOK = """
import os, sys, threading
from pathlib import Path
from dllama.formats.mapped import MappedFile
path, cut, n_threads = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
others = [MappedFile(path) for _ in range(5)]
file = MappedFile(path)
for other in others:
    other.close()
del others
views = [file.bytes[-10 * (n + 1):] for n in range(n_threads)]
file.close()  # views keep the map, and what guards it
os.truncate(path, cut)
threads = [threading.Thread(target=view.sum) for view in views]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
"""

CACHE = """
import os, sys
from pathlib import Path
from dllama.model.kv_cache import _CacheFile
file = _CacheFile(Path(sys.argv[1]), 1 << 20)
os.truncate(file._path, 0)
file.map[1000] = 1
"""

STRANGER = """
import mmap, os, sys
from pathlib import Path
from dllama.formats.mapped import MappedFile
file = MappedFile(Path(sys.argv[1]))
with open(sys.argv[2], "r+b") as other:
    map = mmap.mmap(other.fileno(), 0)
    os.truncate(sys.argv[2], 0)
    map[0]
"""


def run(program: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)], capture_output=True, text=True, timeout=60
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "a model.bin"
    path.write_bytes(bytes(N_BYTES))
    return path


@pytest.mark.parametrize("n_threads", [1, 8])
def test_a_look_at_what_was_cut_off(path: Path, n_threads: int) -> None:
    done = run(LOOK, path, 0, n_threads)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"dllama: {path}: was changed while it was in use")


def test_a_look_at_what_is_still_there(path: Path) -> None:
    done = run(LOOK, path, N_BYTES - 1, 1)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_cache_whose_file_is_gone(tmp_path: Path) -> None:
    done = run(CACHE, tmp_path)
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        f"dllama: {tmp_path}: the KV cache there can no longer be used: see whether its disk is full or failing"
    ]


def test_faults_of_others_stay_theirs(path: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_bytes(bytes(4096))
    assert run(STRANGER, path, other).returncode == -7  # SIGBUS


def test_what_is_checked(path: Path) -> None:
    """Content and size; not another file by the name of the first."""
    file = MappedFile(path)
    file.check()
    replaced = path.with_suffix(".new")
    replaced.write_bytes(b"another")
    replaced.rename(path)
    file.check()
    path.unlink()
    file.check()


def test_a_new_time_of_writing_counts_and_nothing_less(path: Path) -> None:
    """As docs/formats.md says: what a backup does that leaves this time alone is no change."""
    file = MappedFile(path)
    written_ns = path.stat().st_mtime_ns
    os.utime(path, ns=(0, written_ns))
    path.chmod(0o400)
    os.link(path, path.with_suffix(".link"))
    file.check()
    os.utime(path, ns=(0, written_ns + 1_000_000_000))
    with pytest.raises(ModelFileError, match="was changed while it was in use"):
        file.check()


@pytest.mark.parametrize("n_bytes", [0, N_BYTES, 2 * N_BYTES])
def test_writing_in_place_is_noticed(path: Path, n_bytes: int) -> None:
    os.utime(path, ns=(0, 0))
    file = MappedFile(path)
    path.write_bytes(b"x" * n_bytes)
    with pytest.raises(ModelFileError, match=r"a model\.bin: was changed while it was in use"):
        file.check()
