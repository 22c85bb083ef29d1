"""Model families as data: what a model is, how its tensors are called and in which order they come."""

from dllama.families.config import Activation, ModelConfig, RopeScaling, RopeStyle, YarnScaling
from dllama.families.table import Family, family_named, known_families
from dllama.families.tensors import TensorSpec, tensor_specs

__all__ = [
    "Activation",
    "Family",
    "ModelConfig",
    "RopeScaling",
    "RopeStyle",
    "TensorSpec",
    "YarnScaling",
    "family_named",
    "known_families",
    "tensor_specs",
]
