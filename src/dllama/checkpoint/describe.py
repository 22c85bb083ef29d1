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
    """One tensor: `dtype` as it is used, `n_bytes` in memory, where all of it is; `stored_type` what the file has."""

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
    tied_head: bool
    """The head is the embedding: it is held beside it, and its weights are counted once."""
    n_weights: int
    n_weights_of_token: int
    """Without experts that are not chosen."""
    n_bytes: int
    """Bytes in memory: of all tensors but the embedding, whose rows are read from the file."""


def describe(checkpoint: Checkpoint) -> ModelDescription:
    """What `checkpoint` holds. Reads no weights."""
    tensors = [
        TensorDescription(
            name=tensor.name,
            n_rows=tensor.stacked_rows,
            n_cols=tensor.n_cols,
            dtype=tensor.dtype,
            n_bytes=0 if tensor.name == "embedding" else tensor.n_bytes,
            stored_type=checkpoint.recipe(tensor.name).stored_type,
        )
        for tensor in checkpoint.tensors.values()
    ]
    counted = [
        tensor
        for tensor in checkpoint.tensors.values()
        if not (tensor.name == "head" and checkpoint.has_tied_head)
    ]
    return ModelDescription(
        path=checkpoint.path,
        model=checkpoint.model,
        header=checkpoint.header,
        tensors=tensors,
        tied_head=checkpoint.has_tied_head,
        n_weights=sum(tensor.n_elements for tensor in counted),
        n_weights_of_token=sum(tensor.elements_of_row for tensor in counted),
        n_bytes=sum(tensor.n_bytes for tensor in tensors),
    )
