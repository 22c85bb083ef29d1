"""What a model is converted to, asked before work that takes long."""

from __future__ import annotations

import enum

from dllama.checkpoint.checkpoint import Checkpoint
from dllama.checkpoint.gguf.header import metadata_of_config
from dllama.checkpoint.m.config import header_from_config
from dllama.checkpoint.weight_types import M_WEIGHT_TYPES
from dllama.dtypes import ElementType
from dllama.errors import UnsupportedModelError
from dllama.model import ModelConfig


class FileKind(enum.StrEnum):
    """By the suffix."""

    M = "m"
    GGUF = "gguf"


def file_kind(checkpoint: Checkpoint, weight_type: ElementType) -> FileKind:
    """Which file holds the model with weights of this type: `.m` where that can say all of it, else GGUF.

    Raises UnsupportedModelError where neither can.
    """
    fault = None
    for kind in _kinds(weight_type):
        fault = _fault(checkpoint.config, kind)
        if fault is None:
            return kind
    is_for_m = _fault(checkpoint.config, FileKind.M) is None
    way_out = (
        "convert to q40, which is a .m file"
        if is_for_m
        else "run it as it is: weights are quantised on the way in, and spared where it matters once"
        f" `dllama convert importance {checkpoint.path}` has found out where"
    )
    raise UnsupportedModelError(f"{checkpoint.path}: {fault}; {way_out}") from fault


def is_convertible(checkpoint: Checkpoint, weight_type: ElementType) -> bool:
    """Whether file_kind finds one."""
    return any(_fault(checkpoint.config, kind) is None for kind in _kinds(weight_type))


def _kinds(weight_type: ElementType) -> tuple[FileKind, ...]:
    return (FileKind.M, FileKind.GGUF) if weight_type in M_WEIGHT_TYPES else (FileKind.GGUF,)


def _fault(config: ModelConfig, kind: FileKind) -> UnsupportedModelError | None:
    try:
        if kind is FileKind.GGUF:
            metadata_of_config(config, "")
        else:
            header_from_config(config, ElementType.Q40)
    except UnsupportedModelError as error:
        return error
    return None
