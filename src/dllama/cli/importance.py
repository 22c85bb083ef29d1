"""What `convert` knows of how much each weight matters: kept beside the model, or collected now."""

from __future__ import annotations

import contextlib
from pathlib import Path

from dllama.calibration import calibration_text, collect_importance, text_bytes
from dllama.checkpoint import (
    FOUR_BITS,
    Checkpoint,
    Importance,
    importance_file,
    open_checkpoint,
    write_importance,
)
from dllama.cli.console import note, progress_count
from dllama.cli.text_input import read_text
from dllama.dtypes import ElementType
from dllama.errors import NotEnoughDiskError, NotEnoughMemoryError, TokenizerError, UsageError
from dllama.node import available_memory_bytes, default_threads
from dllama.tokenizer import load_tokenizer

NO_IMPORTANCE = "none"

WEIGHED_TYPES = (*FOUR_BITS, ElementType.Q6K)
"""Finer types lose too little for importance to matter."""


def importance_for(checkpoint: Checkpoint, choice: str | None) -> Importance:
    """That of the model in a directory or a GGUF file. `choice`: a text to collect it on, `none`, or None: what is kept
    beside the model, else collected on a text of dllama's own. What is collected is kept."""
    if choice == NO_IMPORTANCE:
        return {}
    model, path = checkpoint.path, importance_file(checkpoint.path)
    if choice is None and checkpoint.importance:
        note(f"importance: {path}, found before (--importance)")
        return checkpoint.importance
    text = calibration_text() if choice is None else read_text(Path(choice))
    try:
        ids = load_tokenizer(model).encode(text)
    except TokenizerError as error:
        if choice is not None:
            raise
        note(f"all weights count the same, since there is no text that the model can read: {error}")
        return {}
    if not ids:
        raise UsageError(f"{choice} has no tokens, so that it says nothing of which weights matter")
    _check_memory(len(ids), checkpoint.config.dim, choice)
    return _collected(model, ids, path)


def _check_memory(n_tokens: int, dim: int, text: str | None) -> None:
    """Raises NotEnoughMemoryError where a text is too long: of each token a layer's input and output are kept."""
    needed, available = text_bytes(n_tokens, dim), available_memory_bytes()
    if needed > available:
        raise NotEnoughMemoryError(
            f"{text or 'the text'} has {n_tokens} tokens, which take {needed / 1e9:.1f} GB while the model reads them,"
            f" and {available / 1e9:.1f} GB are free: some thousand tokens are enough"
        )


def _collected(model: Path, ids: list[int], path: Path) -> Importance:
    note(f"importance: the model reads {len(ids)} tokens, so that rounding spares the weights that matter")
    with (
        contextlib.closing(open_checkpoint(model, ElementType.Q80, with_importance=False)) as checkpoint,
        progress_count("importance", "layers") as advance,
    ):
        importance = collect_importance(checkpoint, default_threads(), ids, advance)
    try:
        write_importance(path, importance)
    except (UsageError, NotEnoughDiskError) as error:
        note(f"{error}: importance is collected again the next time")
    else:
        note(f"importance: kept in {path}, also for when the model is quantised as it is run")
    return importance
