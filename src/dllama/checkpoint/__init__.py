"""A model's weights from a `.m` file or a Hugging Face directory, and from one to the other."""

from dllama.checkpoint.checkpoint import (
    DEFAULT_WEIGHT_TYPE,
    GGUF_WEIGHT_TYPES,
    WEIGHT_TYPES,
    Checkpoint,
    open_checkpoint,
)
from dllama.checkpoint.convert import ConvertProgress, ConvertReport, convert_model
from dllama.checkpoint.convert_gguf import convert_to_gguf
from dllama.checkpoint.convertible import check_convertible, is_convertible
from dllama.checkpoint.describe import ModelDescription, TensorDescription, describe
from dllama.checkpoint.importance import Importance, importance_file, write_importance
from dllama.checkpoint.recipes import Recipe
from dllama.checkpoint.source import TensorSource
from dllama.checkpoint.suggested_sampling import read_suggested_sampling

__all__ = [
    "DEFAULT_WEIGHT_TYPE",
    "GGUF_WEIGHT_TYPES",
    "WEIGHT_TYPES",
    "Checkpoint",
    "ConvertProgress",
    "ConvertReport",
    "Importance",
    "ModelDescription",
    "Recipe",
    "TensorDescription",
    "TensorSource",
    "check_convertible",
    "convert_model",
    "convert_to_gguf",
    "describe",
    "importance_file",
    "is_convertible",
    "open_checkpoint",
    "read_suggested_sampling",
    "write_importance",
]
