"""Where downloaded models lie, and which of them are whole.

A folder of our own, ORG/NAME below the models' directory, holds plain files; RECORD in it says which models of that
repository are whole. The Hugging Face cache is looked at too (formats/hf_folders.py), and never written to.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import constants

from dllama.errors import DllamaError, ModelFileError, UsageError
from dllama.formats.atomic import write_atomically
from dllama.formats.hf_folders import model_folder
from dllama.formats.plain_files import read_json_object
from dllama.formats.safetensors import INDEX_FILE
from dllama.hub.names import HubName
from dllama.hub.selection import Selection, select_files

RECORD = "dllama-download.json"
_OF_PARTS = re.compile(r"-(\d{5})-of-(\d{5})\.")


def models_directory(environ: Mapping[str, str]) -> Path:
    """DLLAMA_MODELS, else the user's data directory (XDG base directory specification). Raises UsageError for a user
    without a home."""
    if environ.get("DLLAMA_MODELS"):
        return Path(environ["DLLAMA_MODELS"])
    base = environ.get("XDG_DATA_HOME", "")
    if os.path.isabs(base):
        return Path(base) / "dllama" / "models"
    try:
        return Path.home() / ".local" / "share" / "dllama" / "models"
    except RuntimeError as error:
        raise UsageError("there is no home directory for models: set DLLAMA_MODELS to one") from error


def downloaded(name: HubName, directory: Path) -> Path | None:
    """The file or folder to open where the whole model is on this computer; nothing is asked of the network."""
    own = _recorded(name, directory / name.repo)
    return own if own is not None else _in_cache(name)


def record(name: HubName, folder: Path, selection: Selection) -> None:
    """Notes that the model `name` in `folder` is whole."""
    path = folder / RECORD
    known = _records(path)
    files = [selection.joined] if selection.joined else []
    files += selection.files[: len(selection.files) - selection.n_parts]
    known[name.choice or ""] = {"main": selection.main, "files": files}
    with write_atomically(path) as file:
        file.write(json.dumps({"models": known}, indent=2).encode())


def _records(path: Path) -> dict[str, Any]:
    """None where it cannot be read: then the model is taken for one that is not there."""
    try:
        models = read_json_object(path, ModelFileError).get("models") if path.exists() else None
    except DllamaError:
        models = None
    return models if isinstance(models, dict) else {}


def _recorded(name: HubName, folder: Path) -> Path | None:
    known = _records(folder / RECORD)
    entry = known.get(name.choice or "")
    if entry is None and name.choice is None and len(known) == 1:
        entry = next(iter(known.values()))  # the one of several that was chosen
    if not isinstance(entry, dict):
        return None
    main, files = entry.get("main"), entry.get("files")
    if not isinstance(main, str) or not isinstance(files, list):
        return None
    is_whole = all(isinstance(file, str) and (folder / file).is_file() for file in files)
    return folder / main if is_whole else None


def _in_cache(name: HubName) -> Path | None:
    """In the Hugging Face cache, which says of no model whether it is whole: all parts have to be there."""
    cache = Path(constants.HF_HUB_CACHE)
    try:
        folder = model_folder(cache / f"models--{name.repo.replace('/', '--')}")
        if not folder.is_dir():
            return None
        names = [str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()]
        selection = select_files(names, name.choice, str(name))
    except (DllamaError, OSError):
        return None
    if selection.joined or not _has_all_parts(selection.files) or not _has_weights(folder, selection.files):
        return None
    return folder / selection.main if selection.main else folder


def _has_weights(folder: Path, files: tuple[str, ...]) -> bool:
    """Also all that an index of them names."""
    if INDEX_FILE not in files:
        return any(file.endswith((".safetensors", ".gguf", ".m", ".pth")) for file in files)
    try:
        named = read_json_object(folder / INDEX_FILE, ModelFileError).get("weight_map")
    except DllamaError:
        return False
    return isinstance(named, dict) and all(
        isinstance(file, str) and (folder / file).is_file() for file in named.values()
    )


def _has_all_parts(files: tuple[str, ...]) -> bool:
    parts = [(int(match[1]), int(match[2])) for file in files if (match := _OF_PARTS.search(file))]
    return not parts or {number for number, _ in parts} == set(range(1, parts[0][1] + 1))
