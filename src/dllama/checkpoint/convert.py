"""Writes any checkpoint as a `.m` file, in memory that does not grow with the model."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

from dllama.checkpoint.checkpoint import Checkpoint
from dllama.checkpoint.chunks import chunks_of
from dllama.checkpoint.m.config import header_from_config, header_notes
from dllama.checkpoint.m.layout import in_file_order
from dllama.errors import UnsupportedModelError
from dllama.formats.atomic import require_free_space, write_atomically
from dllama.formats.m_file import encode_header

# Pages of the source that may be mapped before they are given back: at most 512 MB (f32).
LET_GO_ELEMENTS = 1 << 27


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
    n_threads: int = 1,
) -> ConvertReport:
    """Writes `checkpoint` to `out_path` as a `.m` file with the one type that its matrices have.

    Streams chunks of a million weights, each thread one at a time; after a failure nothing is left behind and an older
    file at `out_path` is untouched. Raises NotEnoughDiskError before the first byte, NumericalError naming the
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
    done_weights, let_go_at = 0, LET_GO_ELEMENTS
    with write_atomically(out_path) as file:
        file.write(header)
        done_bytes = len(header)
        for tensor, chunk in chunks_of(checkpoint, in_file_order(tensors), n_threads):
            file.write(chunk.data)
            done_weights += chunk.shape[0] * tensor.n_cols
            done_bytes += chunk.nbytes
            if done_weights >= let_go_at:
                checkpoint.let_go()
                let_go_at = done_weights + LET_GO_ELEMENTS
            if on_progress is not None:
                on_progress(
                    ConvertProgress(tensor.name, done_weights, total_weights, done_bytes, total_bytes)
                )
        checkpoint.check()
    checkpoint.let_go()
    return ConvertReport(out_path, total_weights, total_bytes, header_notes(checkpoint.config))
