"""Writes any checkpoint as a `.m` file, in memory that does not grow with the model."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dllama.checkpoint.checkpoint import Checkpoint
from dllama.checkpoint.m.config import header_from_config, header_notes
from dllama.errors import UnsupportedModelError
from dllama.formats.atomic import require_free_space, write_atomically
from dllama.formats.m_file import encode_header
from dllama.sharding import Tensor

# Source and result of a chunk (bf16 to q40: 2 MB and 0.6 MB) stay in a core's caches between reading,
# converting and writing, and a call costs nothing beside a million elements.
_CHUNK_ELEMENTS = 1 << 20
# Pages of the source that may be mapped before they are given back: at most 512 MB (f32).
_LET_GO_ELEMENTS = 1 << 27


@dataclasses.dataclass(frozen=True)
class ConvertProgress:
    """How far a conversion has come; weights and bytes of the whole file, `tensor` is being written."""

    tensor: str
    done_weights: int
    total_weights: int
    done_bytes: int
    total_bytes: int


@dataclasses.dataclass(frozen=True)
class ConvertReport:
    path: Path
    n_weights: int
    n_bytes: int
    notes: list[str]
    """What the file says otherwise than the model; one line each."""


def convert_model(
    checkpoint: Checkpoint,
    out_path: Path,
    on_progress: Callable[[ConvertProgress], None] | None = None,
) -> ConvertReport:
    """Writes `checkpoint` to `out_path` as a `.m` file with the one type that its matrices have.

    Streams chunks of a million weights; after a failure nothing is left behind and an older file at
    `out_path` is untouched. Raises NotEnoughDiskError before the first byte, NumericalError naming the
    tensor that has NaN or infinity, ModelFileError when a file was changed meanwhile, UnsupportedModelError for
    what the format cannot say.
    """
    weight_type = checkpoint.model.types.uniform
    if weight_type is None:
        raise UnsupportedModelError(
            f"{checkpoint.path}: its weights are of the types {checkpoint.model.types.label}, and a .m file has one"
        )
    header = encode_header(header_from_config(checkpoint.config, weight_type))
    tensors = list(checkpoint.tensors.values())
    total_weights = sum(tensor.n_elements for tensor in tensors)
    total_bytes = len(header) + sum(tensor.n_bytes for tensor in tensors)
    require_free_space(out_path, total_bytes)
    done_weights, let_go_at = 0, _LET_GO_ELEMENTS
    with write_atomically(out_path) as file:
        file.write(header)
        done_bytes = len(header)
        for tensor, chunk in _chunks(checkpoint, tensors):
            file.write(chunk.data)
            done_weights += chunk.shape[0] * tensor.n_cols
            done_bytes += chunk.nbytes
            if done_weights >= let_go_at:
                checkpoint.let_go()
                let_go_at = done_weights + _LET_GO_ELEMENTS
            if on_progress is not None:
                on_progress(
                    ConvertProgress(tensor.name, done_weights, total_weights, done_bytes, total_bytes)
                )
        checkpoint.check()
    checkpoint.let_go()
    return ConvertReport(out_path, total_weights, total_bytes, header_notes(checkpoint.config))


def _chunks(checkpoint: Checkpoint, tensors: list[Tensor]) -> Iterator[tuple[Tensor, NDArray[np.uint8]]]:
    """Every tensor as runs of rows, checked for NaN; a run is valid until the next one."""
    buffer = np.empty(0, dtype=np.uint8)
    for tensor in tensors:
        rows_at_once = min(max(1, _CHUNK_ELEMENTS // tensor.n_cols), tensor.stacked_rows)
        if buffer.size < rows_at_once * tensor.row_bytes:
            buffer = np.empty(rows_at_once * tensor.row_bytes, dtype=np.uint8)
        for start in range(0, tensor.stacked_rows, rows_at_once):
            stop = min(start + rows_at_once, tensor.stacked_rows)
            out = buffer[: (stop - start) * tensor.row_bytes].reshape(stop - start, tensor.row_bytes)
            yield tensor, checkpoint.read(tensor.name, (start, stop), (0, tensor.n_cols), out)
