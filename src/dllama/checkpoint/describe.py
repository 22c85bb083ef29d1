"""What a model's files say, as data for `dllama info`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

from dllama.checkpoint.checkpoint import Checkpoint
from dllama.dtypes import ElementType
from dllama.model import ModelSpec


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
    model: ModelSpec
    header: Mapping[str, str] | None
    """What a file says of itself, in its order; None for a directory."""
    tensors: list[TensorDescription]
    """In the order of the `.m` file."""
    n_weights: int
    n_weights_of_token: int
    """Those that each token is multiplied with: of experts, the chosen ones."""
    n_bytes: int
    """Bytes of all tensors in the types in which they are used."""


def describe(checkpoint: Checkpoint) -> ModelDescription:
    """What `checkpoint` holds. Reads no weights."""
    tensors = [
        TensorDescription(
            name=tensor.name,
            n_rows=tensor.stacked_rows,
            n_cols=tensor.n_cols,
            dtype=tensor.dtype,
            n_bytes=tensor.n_bytes,
            stored_type=checkpoint.recipe(tensor.name).stored_type,
        )
        for tensor in checkpoint.tensors.values()
    ]
    return ModelDescription(
        path=checkpoint.path,
        model=checkpoint.model,
        header=checkpoint.header,
        tensors=tensors,
        n_weights=sum(tensor.n_rows * tensor.n_cols for tensor in tensors),
        n_weights_of_token=sum(tensor.elements_of_row for tensor in checkpoint.tensors.values()),
        n_bytes=sum(tensor.n_bytes for tensor in tensors),
    )
