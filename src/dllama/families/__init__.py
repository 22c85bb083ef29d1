"""Model families, one file each: a recipe for a ModelConfig, and how its tensors are called. They know no file format:
keys are those of config.json, whatever file says them."""

from dllama.families.family import Family
from dllama.families.gguf_names import NEEDED, GgufKey, GgufNames
from dllama.families.keys import Keys
from dllama.families.stored_parts import Fused, StoredPart
from dllama.families.table import family_named, is_known_family, known_families

__all__ = [
    "NEEDED",
    "Family",
    "Fused",
    "GgufKey",
    "GgufNames",
    "Keys",
    "StoredPart",
    "family_named",
    "is_known_family",
    "known_families",
]
