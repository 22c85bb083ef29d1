"""The files of a model that Meta or Mistral has published, and its tensors in them.

Meta's are consolidated.00.pth, consolidated.01.pth, ...: one for each GPU that the model was meant for, so most
matrices are cut among them. Mistral's are consolidated.safetensors, or several with whole matrices in each.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TypeAlias

from dllama.errors import ModelFileError
from dllama.formats.safetensors import SafetensorsFile
from dllama.formats.torch_file import TorchFile

PARAMS_FILE = "params.json"

_SHARD = re.compile(r"consolidated\.(\d\d)\.pth")
_WHOLE = re.compile(r"consolidated(-\d{5}-of-\d{5})?\.safetensors")

TensorFile: TypeAlias = SafetensorsFile | TorchFile
Shard: TypeAlias = Mapping[str, TensorFile]
"""The tensors of one GPU by their names."""


def is_published_so(folder: Path) -> bool:
    """Whether the folder has such files."""
    return (folder / PARAMS_FILE).exists() and any(
        _SHARD.fullmatch(entry.name) or _WHOLE.fullmatch(entry.name) for entry in folder.iterdir()
    )


def open_shards(folder: Path) -> list[Shard]:
    """In the order of the GPUs. Raises ModelFileError or UnsupportedModelError, naming what is missing or bad."""
    names = sorted(entry.name for entry in folder.iterdir())
    whole = [name for name in names if _WHOLE.fullmatch(name)]
    if whole:
        several = [name for name in whole if "-of-" in name]
        if several and len(several) != int(several[0][-len("00001.safetensors") :].partition(".")[0]):
            raise ModelFileError(
                f"{folder}: has {len(several)} of the files of {several[0]}; download the others too"
            )
        files = [SafetensorsFile(folder / name) for name in several or whole]
        return [{name: file for file in files for name in file.tensors}]
    shards = [name for name in names if _SHARD.fullmatch(name)]
    for number, name in enumerate(shards):
        if name != f"consolidated.{number:02}.pth":
            raise ModelFileError(f"{folder / f'consolidated.{number:02}.pth'}: is missing; download it too")
    files_of_torch = [TorchFile(folder / name) for name in shards]
    return [dict.fromkeys(file.tensors, file) for file in files_of_torch]
