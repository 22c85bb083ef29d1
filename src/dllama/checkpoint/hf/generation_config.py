"""How the makers of a model mean it to be sampled: the numbers in generation_config.json of its directory."""

from __future__ import annotations

import os
import reprlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeAlias

from dllama.errors import ModelFileError
from dllama.formats.hf_folders import model_folder
from dllama.formats.plain_files import read_json_object

Number: TypeAlias = int | float

_LARGEST = 1e30

_IS_SOUND: Mapping[str, Callable[[Number], bool]] = {
    "temperature": lambda value: value >= 0,
    "top_p": lambda value: 0 <= value <= 1,
    "top_k": lambda value: value == int(value) and value >= -1,
    "min_p": lambda value: 0 <= value <= 1,
    "repetition_penalty": lambda value: 0 < value <= 100,
}
"""By the names of the file, which are those of transformers."""


def read_suggested_sampling(model: Path) -> dict[str, Number]:
    """What generation_config.json says, by the names of _IS_SOUND; nothing where there is no such file.

    Raises ModelFileError for a value that cannot be. As in vLLM, do_sample is passed over.
    """
    if not model.is_dir():
        return {}
    path = model_folder(model) / "generation_config.json"
    if not os.path.lexists(path):
        return {}
    config = read_json_object(path, ModelFileError)
    suggested: dict[str, Number] = {}
    for name, is_sound in _IS_SOUND.items():
        value = config.get(name)
        if value is None:
            continue
        if type(value) not in (int, float) or not abs(value) < _LARGEST or not is_sound(value):
            raise ModelFileError(f"{path}: {name} cannot be {reprlib.repr(value)}")
        suggested[name] = value
    return suggested
