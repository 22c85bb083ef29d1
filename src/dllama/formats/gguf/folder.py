"""Which GGUF file a path means: the file itself, or the one in a folder."""

from __future__ import annotations

import re
from pathlib import Path

from dllama.errors import ModelFileError, UsageError
from dllama.formats.gguf.header import MAGIC
from dllama.formats.hf_folders import model_folder
from dllama.formats.plain_files import open_plain_file
from dllama.formats.safetensors import INDEX_FILE, SINGLE_FILE

PART = re.compile(r"(.+)-\d{5}-of-(\d{5})\.gguf", re.IGNORECASE)
"""What a part of a split model is called: the model, and how many parts it has."""
_NOT_THE_MODEL = re.compile(r"(mmproj|imatrix)|.*[-.](mmproj|imatrix)[-.].*", re.IGNORECASE)
_SHOWN = 4


def gguf_file(path: Path) -> Path | None:
    """The GGUF file that `path` is, or the one that the folder `path` holds; of a split model the first part.

    None for anything else: no GGUF file, a folder without one, a folder with safetensors. Raises UsageError where a
    folder holds several models.
    """
    folder = model_folder(path)
    if not folder.is_dir():
        return path if path.exists() and _is_gguf(path) else None
    if any((folder / name).exists() for name in (SINGLE_FILE, INDEX_FILE)):
        return None
    models: dict[str, Path] = {}
    for file in sorted(folder.iterdir()):
        if file.suffix.lower() == ".gguf" and not is_beside_a_model(file.name):
            part = PART.fullmatch(file.name)
            models.setdefault(f"{part[1]} of {part[2]}" if part else file.name, file)
    if len(models) > 1:
        names = [file.name for file in models.values()]
        more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
        raise UsageError(f"{path}: holds several models; give one of {', '.join(names[:_SHOWN])}{more}")
    return next(iter(models.values()), None)


def is_beside_a_model(name: str) -> bool:
    """Whether the GGUF file of this name is no language model: its eyes, or what its quantisation was weighted by."""
    return _NOT_THE_MODEL.match(name) is not None


def _is_gguf(path: Path) -> bool:
    if path.suffix.lower() == ".gguf":
        return True
    with open_plain_file(path, ModelFileError) as file:
        return file.read(len(MAGIC)) == MAGIC
