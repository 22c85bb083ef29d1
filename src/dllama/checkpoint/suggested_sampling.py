"""How the makers of a model mean it to be sampled, as its files say it."""

from __future__ import annotations

import os
import reprlib
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeAlias

from dllama.errors import ModelFileError
from dllama.formats.gguf import GgufFile
from dllama.formats.gguf.folder import gguf_file
from dllama.formats.hf_folders import model_folder
from dllama.formats.plain_files import read_json_object

Number: TypeAlias = int | float

_LARGEST = 1e30

_IS_SOUND: Mapping[str, Callable[[Number], bool]] = MappingProxyType(
    {
        "temperature": lambda value: value >= 0,
        "top_p": lambda value: 0 <= value <= 1,
        "top_k": lambda value: value == int(value) and value >= -1,
        "min_p": lambda value: 0 <= value <= 1,
        "repetition_penalty": lambda value: 0 < value <= 100,
    }
)
"""By the names of transformers."""

_GGUF_KEYS: Mapping[str, str] = MappingProxyType(
    {
        "temperature": "general.sampling.temp",
        "top_p": "general.sampling.top_p",
        "top_k": "general.sampling.top_k",
        "min_p": "general.sampling.min_p",
        "repetition_penalty": "general.sampling.penalty_repeat",
    }
)


def read_suggested_sampling(model: Path) -> dict[str, Number]:
    """What generation_config.json of a directory says, or the metadata of a GGUF file, by the names of _IS_SOUND;
    nothing where there is no such file.

    Raises ModelFileError for a value that cannot be. As in vLLM, do_sample is passed over.
    """
    gguf = gguf_file(model)
    if gguf is not None:
        return _of_gguf(gguf)
    if not model.is_dir():
        return {}
    path = model_folder(model) / "generation_config.json"
    if not os.path.lexists(path):
        return {}
    return _sound(path, read_json_object(path, ModelFileError), {name: name for name in _IS_SOUND})


def _of_gguf(path: Path) -> dict[str, Number]:
    file = GgufFile(path)
    try:
        return _sound(path, file.metadata, _GGUF_KEYS)
    finally:
        file.close()


def _sound(path: Path, values: Mapping[str, Any], keys: Mapping[str, str]) -> dict[str, Number]:
    suggested: dict[str, Number] = {}
    for name, is_sound in _IS_SOUND.items():
        value = values.get(keys[name])
        if value is None:
            continue
        if type(value) not in (int, float) or not abs(value) < _LARGEST or not is_sound(value):
            raise ModelFileError(f"{path}: {keys[name]} cannot be {reprlib.repr(value)}")
        suggested[name] = value
    return suggested
