"""Writes any checkpoint as a GGUF file, in memory that does not grow with the model."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dllama.checkpoint.checkpoint import Checkpoint
from dllama.checkpoint.chunks import chunks_of
from dllama.checkpoint.convert import LET_GO_ELEMENTS, ConvertProgress, ConvertReport
from dllama.checkpoint.gguf.header import gguf_notes, metadata_of_config, rope_factors, with_unused_tokens
from dllama.checkpoint.gguf.names import ROPE_FACTORS, gguf_name
from dllama.dtypes import ElementType
from dllama.families import Family, family_named
from dllama.formats.gguf import GgmlType, NewTensor, NewValue, write_gguf
from dllama.sharding import Tensor


def convert_to_gguf(
    checkpoint: Checkpoint,
    out_path: Path,
    name: str,
    tokenizer: Mapping[str, NewValue],
    on_progress: Callable[[ConvertProgress], None] = lambda progress: None,
    n_threads: int = 1,
) -> ConvertReport:
    """Writes `checkpoint` to `out_path`, its matrices in their types.

    `name` is the model's, `tokenizer` what the file says of the tokenizer. A head that is the embedding is not written.
    After a failure nothing is left behind, and an older file is as it was. Raises UnsupportedModelError for what is not
    written, and what convert_model raises.
    """
    family = family_named(checkpoint.config.family)
    config, tensors, factors = checkpoint.config, _written(checkpoint), rope_factors(checkpoint.config)
    metadata = metadata_of_config(config, name) | with_unused_tokens(tokenizer, config.vocab_size)
    table = _table(family, tensors, factors)
    done_weights, done_bytes, let_go_at = 0, 0, LET_GO_ELEMENTS
    total_weights, total_bytes = (
        sum(tensor.n_elements for tensor in tensors),
        sum(each.n_bytes for each in table),
    )
    with write_gguf(out_path, metadata, table) as writer:
        if factors is not None:
            writer.write(ROPE_FACTORS, factors.view(np.uint8))
        whole = [(tensor, range(tensor.stacked_rows)) for tensor in tensors]
        for tensor, chunk in chunks_of(checkpoint, whole, n_threads):
            writer.write(gguf_name(family, tensor.name), chunk)
            done_weights += len(chunk) * tensor.n_cols
            done_bytes += chunk.nbytes
            if done_weights >= let_go_at:
                checkpoint.let_go()
                let_go_at = done_weights + LET_GO_ELEMENTS
            on_progress(ConvertProgress(tensor.name, done_weights, total_weights, done_bytes, total_bytes))
        checkpoint.check()
    checkpoint.let_go()
    return ConvertReport(out_path, total_weights, out_path.stat().st_size, gguf_notes(config))


def _table(family: Family, tensors: list[Tensor], factors: NDArray[np.float32] | None) -> list[NewTensor]:
    """What stands in the file, in its order."""
    before = [] if factors is None else [NewTensor(ROPE_FACTORS, factors.shape, GgmlType.F32)]
    return before + [
        NewTensor(gguf_name(family, tensor.name), tensor.shape, GgmlType.of(tensor.dtype))
        for tensor in tensors
    ]


def _written(checkpoint: Checkpoint) -> list[Tensor]:
    tensors = checkpoint.tensors
    is_tied = checkpoint.has_tied_head
    dtype = _type_of_embedding(tensors["head"].dtype, is_tied)
    embedding = dataclasses.replace(tensors["embedding"], dtype=dtype)
    others = [tensor for name, tensor in tensors.items() if name not in ("embedding", "head")]
    return [embedding, *others] if is_tied else [embedding, *others, tensors["head"]]


def _type_of_embedding(of_head: ElementType, is_tied: bool) -> ElementType:
    """q80 beside blocks, of which rows are read only; that of the head where it is the head, if not coarser than it."""
    is_fine = not of_head.is_blocked or (is_tied and of_head is ElementType.Q6K)
    return of_head if is_fine else ElementType.Q80
