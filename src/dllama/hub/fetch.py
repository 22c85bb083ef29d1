"""A model of the Hub becomes files on this computer."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from dllama.errors import DownloadError
from dllama.formats.atomic import require_free_space
from dllama.hub.listing import HubFile, Repository
from dllama.hub.names import HubName
from dllama.hub.selection import Selection
from dllama.hub.store import record
from dllama.hub.transfer import fetch_file, part_path

OnProgress = Callable[[int, int], None]
"""on_progress(bytes done, bytes in all)."""

_COPY_BYTES = 1 << 24


def download(
    name: HubName,
    repository: Repository,
    selection: Selection,
    folder: Path,
    token: str | None,
    on_progress: OnProgress,
) -> Path:
    """Fetches what is missing of the selection into `folder`; returns the file or folder to open.

    Raises DownloadError or NotEnoughDiskError; what has come until then stays and is gone on with the next time.
    """
    files = [repository.files[file] for file in selection.files]
    n_total = sum(file.size for file in files)
    n_twice = (
        max((file.size for file in files), default=0) if selection.joined else 0
    )  # a part that is copied
    require_free_space(folder / "model", n_total + n_twice - _bytes_here(files, selection, folder))
    n_done = 0

    def on_bytes(n_bytes: int) -> None:
        nonlocal n_done
        n_done += n_bytes
        on_progress(n_done, n_total)

    n_plain = len(files) - selection.n_parts
    for file in files[:n_plain]:
        fetch_file(repository, file, folder, token, on_bytes)
    if selection.joined:
        _fetch_joined(repository, files[n_plain:], folder / selection.joined, token, on_bytes)
    record(name, folder, selection)
    return folder / selection.main if selection.main else folder


def _bytes_here(files: list[HubFile], selection: Selection, folder: Path) -> int:
    places = [folder / file.name for file in files] + [part_path(folder, file) for file in files]
    if selection.joined:
        places += [folder / selection.joined, _joining(folder / selection.joined)]
    return sum(place.stat().st_size for place in places if place.is_file())


def _joining(whole: Path) -> Path:
    return whole.with_name(f"{whole.name}.joining")


def _fetch_joined(
    repository: Repository,
    parts: list[HubFile],
    whole: Path,
    token: str | None,
    on_bytes: Callable[[int], None],
) -> None:
    """Parts one after the other at the end of one file, each removed when it is in: there is no need for room for both.
    What is joined ends at a part's border, or is cut back to one."""
    n_bytes = sum(part.size for part in parts)
    if whole.is_file() and whole.stat().st_size == n_bytes:
        on_bytes(n_bytes)
        return
    joining = _joining(whole)
    joining.touch()
    n_joined, n_here = 0, joining.stat().st_size
    for part in parts:
        if n_joined + part.size <= n_here:
            n_joined += part.size
            on_bytes(part.size)
            continue
        path = fetch_file(repository, part, whole.parent, token, on_bytes)
        os.truncate(joining, n_joined)
        with path.open("rb") as source, joining.open("ab") as out:
            while data := source.read(_COPY_BYTES):
                out.write(data)
            out.flush()
            os.fsync(out.fileno())
        n_joined = n_here = n_joined + part.size
        path.unlink()
    if joining.stat().st_size != n_bytes:
        raise DownloadError(f"{joining}: has not the size of its parts; remove it and download it again")
    joining.replace(whole)
