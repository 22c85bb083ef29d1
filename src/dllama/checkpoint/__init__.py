"""A model's weights from a `.m` or GGUF file or a Hugging Face directory, and from one to another."""

from dllama.checkpoint.checkpoint import (
    Checkpoint,
    open_checkpoint,
)
from dllama.checkpoint.convert import ConvertProgress, ConvertReport, convert_model
from dllama.checkpoint.convert_gguf import convert_to_gguf
from dllama.checkpoint.convertible import FileKind, file_kind, is_convertible
from dllama.checkpoint.describe import ModelDescription, TensorDescription, describe
from dllama.checkpoint.hf.types import DEFAULT_WEIGHT_TYPE
from dllama.checkpoint.importance import Importance, importance_file, write_importance
from dllama.checkpoint.recipes import Recipe
from dllama.checkpoint.source import TensorSource
from dllama.checkpoint.suggested_sampling import read_suggested_sampling
from dllama.checkpoint.weight_types import FOUR_BITS, WEIGHT_TYPES

__all__ = [
    "DEFAULT_WEIGHT_TYPE",
    "FOUR_BITS",
    "WEIGHT_TYPES",
    "Checkpoint",
    "ConvertProgress",
    "ConvertReport",
    "FileKind",
    "Importance",
    "ModelDescription",
    "Recipe",
    "TensorDescription",
    "TensorSource",
    "convert_model",
    "convert_to_gguf",
    "describe",
    "file_kind",
    "importance_file",
    "is_convertible",
    "open_checkpoint",
    "read_suggested_sampling",
    "write_importance",
]
