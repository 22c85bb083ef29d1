"""How much each input of a matrix counts: what quantising weighs errors by, kept in a file beside the model.

A safetensors file with a float32 vector for each matrix, by the names of the tensors: the mean square of each of
its inputs while the model read some text (calibration/). Experts have one each, [n_experts, n_cols].
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from dllama.dtypes import ElementType
from dllama.errors import ModelFileError
from dllama.formats.atomic import write_atomically
from dllama.formats.gguf.folder import gguf_file
from dllama.formats.hf_folders import model_folder
from dllama.formats.safetensors import SafetensorsFile, safetensors_header
from dllama.sharding import Tensor

Importance: TypeAlias = Mapping[str, NDArray[np.float32]]
"""By the names of matrices, [n_cols] of each; of a stack also [n_stacked, n_cols]. One that is not there has columns
that all count the same."""

_FILE = "dllama-importance.safetensors"


def importance_file(model: Path) -> Path:
    """Where that of the model at `model` is kept: in its directory, or beside its GGUF file under that file's name."""
    gguf = gguf_file(model)
    return (
        model_folder(model) / _FILE if gguf is None else gguf.with_name(f"{gguf.stem}-importance.safetensors")
    )


def read_importance(path: Path, tensors: Mapping[str, Tensor]) -> Importance:
    """Nothing when there is no such file; `tensors` are those of the model.

    Raises ModelFileError when it is damaged, or of another model.
    """
    if not os.path.lexists(path):
        return {}
    try:
        file = SafetensorsFile(path)
    except ModelFileError as error:
        raise _damaged(path) from error
    try:
        importance = {}
        for name in file.tensors.keys() & tensors.keys():
            shape, tensor = file.tensors[name].shape, tensors[name]
            is_known = shape in ((tensor.n_cols,), (tensor.n_stacked, tensor.n_cols))
            if file.tensors[name].element_type is not ElementType.F32 or not is_known:
                raise _damaged(path)
            importance[name] = file.bytes_of(name).view(np.float32).reshape(shape).copy()
    finally:
        file.close()
    if not all(np.isfinite(values).all() and (values >= 0).all() for values in importance.values()):
        raise _damaged(path)
    return importance


def write_importance(path: Path, importance: Importance) -> None:
    """Raises UsageError when it cannot be written, NotEnoughDiskError."""
    with write_atomically(path) as file:
        file.write(safetensors_header({name: values.shape for name, values in importance.items()}))
        for values in importance.values():
            file.write(np.ascontiguousarray(values, np.float32).data)


def _damaged(path: Path) -> ModelFileError:
    return ModelFileError(
        f"{path}: is damaged, or is another model's: delete it (it says which weights matter, and convert finds that"
        " out again)"
    )
