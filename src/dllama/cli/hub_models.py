"""A model that is named as on the Hugging Face Hub: found where it was downloaded to, or downloaded, having asked."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping
from pathlib import Path

import huggingface_hub

from dllama import hub
from dllama.cli.console import note, progress_count
from dllama.errors import UsageError
from dllama.hub import HubName, Selection, hub_name, select_files

_FLAGS = ("model", "reference", "directory")
_FILES = (".gguf", ".m", ".safetensors")


def find_models(args: argparse.Namespace) -> None:
    """Puts in place of names on the Hub, where a command takes a model, the file or folder that it is here.

    Raises UsageError where a model is not here and nobody is there to be asked, DownloadError.
    """
    for flag in _FLAGS:
        path = getattr(args, flag, None)
        name = _hub_name_of(path) if isinstance(path, Path) else None
        if name is not None:
            setattr(args, flag, _local_model(name, str(path), os.environ))


def _hub_name_of(path: Path) -> HubName | None:
    """None for what is here, and for what can only be a path that is wrong."""
    is_file = path.suffix in _FILES and ":" not in path.name
    if path.exists() or is_file or (path.parent != Path() and path.parent.is_dir()):
        return None
    return hub_name(str(path))


def _local_model(name: HubName, written: str, environ: Mapping[str, str]) -> Path:
    directory = hub.models_directory(environ)
    here = hub.downloaded(name, directory)
    if here is not None:
        return here
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise UsageError(
            f"{written}: is no file or folder here, and not downloaded; `dllama download {written}` does that"
        )
    repository, selection = look_up(name)
    print("download it? [Y/n] ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() not in ("", "y", "yes"):
        raise UsageError("nothing was downloaded")
    return fetch(name, repository, selection, directory / name.repo)


def look_up(name: HubName) -> tuple[hub.Repository, Selection]:
    """What the Hub has of it; says how much that is, and under which licence. Raises DownloadError or UsageError."""
    repository = hub.list_repository(name.repo, huggingface_hub.get_token())
    selection = select_files(repository.files, name.choice, str(name))
    n_bytes = sum(repository.files[file].size for file in selection.files)
    n_files = len(selection.files)
    note(
        f"{name.repo}: {selection.main or 'the model'}, {n_bytes / 1e9:.2f} GB in {n_files} file{'s' * (n_files > 1)},"
        f" licence: {repository.license or 'none is named'}"
    )
    return repository, selection


def fetch(name: HubName, repository: hub.Repository, selection: Selection, folder: Path) -> Path:
    """The file or folder to open, whole. Raises DownloadError or NotEnoughDiskError."""
    with progress_count("downloading", "MB", 1e6) as on_progress:
        return hub.download(name, repository, selection, folder, huggingface_hub.get_token(), on_progress)
