"""A model's weights from a `.m` file or a Hugging Face directory, and from one to the other."""

from dllama.checkpoint.checkpoint import DEFAULT_WEIGHT_TYPE, WEIGHT_TYPES, Checkpoint, open_checkpoint
from dllama.checkpoint.convert import ConvertProgress, ConvertReport, convert_model
from dllama.checkpoint.describe import ModelDescription, TensorDescription, describe
from dllama.checkpoint.recipes import Recipe
from dllama.checkpoint.source import TensorSource
from dllama.checkpoint.suggested_sampling import read_suggested_sampling

__all__ = [
    "DEFAULT_WEIGHT_TYPE",
    "WEIGHT_TYPES",
    "Checkpoint",
    "ConvertProgress",
    "ConvertReport",
    "ModelDescription",
    "Recipe",
    "TensorDescription",
    "TensorSource",
    "convert_model",
    "describe",
    "open_checkpoint",
    "read_suggested_sampling",
]
