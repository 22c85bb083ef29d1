"""What a model's files say, as data for `dllama info`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

from dllama.checkpoint.checkpoint import Checkpoint
from dllama.dtypes import ElementType
from dllama.families import ModelConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class TensorDescription:
    """One tensor: `dtype` and `n_bytes` as it is used, `stored_type` what the file has."""

    name: str
    n_rows: int
    n_cols: int
    dtype: ElementType
    n_bytes: int
    stored_type: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelDescription:
    path: Path
    config: ModelConfig
    header: Mapping[str, str] | None
    """What a file says of itself, in its order; None for a directory."""
    tensors: list[TensorDescription]
    """In the order of the `.m` file."""
    n_weights: int
    n_bytes: int
    """Bytes of all tensors in the types in which they are used."""


def describe(checkpoint: Checkpoint) -> ModelDescription:
    """What `checkpoint` holds. Reads no weights."""
    tensors = [
        TensorDescription(
            name=spec.name,
            n_rows=spec.n_rows,
            n_cols=spec.n_cols,
            dtype=spec.dtype,
            n_bytes=spec.n_bytes,
            stored_type=checkpoint.recipe(spec.name).stored_type,
        )
        for spec in checkpoint.tensors.values()
    ]
    return ModelDescription(
        path=checkpoint.path,
        config=checkpoint.config,
        header=checkpoint.header,
        tensors=tensors,
        n_weights=sum(tensor.n_rows * tensor.n_cols for tensor in tensors),
        n_bytes=sum(tensor.n_bytes for tensor in tensors),
    )
