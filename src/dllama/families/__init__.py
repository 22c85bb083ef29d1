"""Model families as data: what differs between them, and how their tensors are called."""

from dllama.families.table import Family, family_named, known_families

__all__ = ["Family", "family_named", "known_families"]
