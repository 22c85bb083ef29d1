"""Whether a model can be converted, asked before work that takes long."""

from __future__ import annotations

from dllama.checkpoint.checkpoint import GGUF_WEIGHT_TYPES, Checkpoint
from dllama.checkpoint.gguf.header import metadata_of_config
from dllama.checkpoint.m.config import header_from_config
from dllama.dtypes import ElementType
from dllama.errors import UnsupportedModelError
from dllama.model import ModelConfig


def check_convertible(checkpoint: Checkpoint, weight_type: ElementType) -> None:
    """Raises UnsupportedModelError where the file that weights of this type go into cannot say all of the model."""
    fault = _fault(checkpoint.config, weight_type)
    if fault is None:
        return
    is_for_m = _fault(checkpoint.config, ElementType.Q40) is None
    way_out = (
        "convert to q40, which is a .m file"
        if is_for_m
        else "run it as it is: a directory's weights are quantised on the way in"
    )
    raise UnsupportedModelError(f"{checkpoint.path}: {fault}; {way_out}") from fault


def is_convertible(checkpoint: Checkpoint, weight_type: ElementType) -> bool:
    """Whether check_convertible has nothing to say."""
    return _fault(checkpoint.config, weight_type) is None


def _fault(config: ModelConfig, weight_type: ElementType) -> UnsupportedModelError | None:
    try:
        if weight_type in GGUF_WEIGHT_TYPES:
            metadata_of_config(config, "")
        else:
            header_from_config(config, weight_type)
    except UnsupportedModelError as error:
        return error
    return None
